#!/usr/bin/env bash
# All parameters on ADGEN by DeepSpeed, with the flags of ChatGLM-6B's ptuning/ds_train_finetune.sh: one process for each visible GPU.
#   MODEL=/data/chatglm-6b bash scripts/ds_train_finetune.sh
#   CUDA_VISIBLE_DEVICES=0,1 MODEL=/data/chatglm-6b bash scripts/ds_train_finetune.sh     on two of them
# LR, MODEL and DEEPSPEED, a DeepSpeed file, come from the environment; further flags may follow.
set -euo pipefail
LR=${LR:-1e-4}
MODEL=${MODEL:-THUDM/chatglm-6b}
DEEPSPEED=${DEEPSPEED:-$(dirname "$0")/deepspeed.json}

${IMPRINT:-imprint} main \
    --deepspeed "$DEEPSPEED" \
    --do_train \
    --train_file AdvertiseGen/train.json \
    --test_file AdvertiseGen/dev.json \
    --prompt_column content \
    --response_column summary \
    --overwrite_cache \
    --model_name_or_path "$MODEL" \
    --output_dir "./output/adgen-chatglm-6b-ft-$LR" \
    --overwrite_output_dir \
    --max_source_length 64 \
    --max_target_length 64 \
    --per_device_train_batch_size 4 \
    --per_device_eval_batch_size 1 \
    --gradient_accumulation_steps 4 \
    --predict_with_generate \
    --max_steps 5000 \
    --logging_steps 10 \
    --save_steps 1000 \
    --learning_rate "$LR" \
    --fp16 \
    "$@"
