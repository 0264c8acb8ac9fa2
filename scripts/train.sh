#!/usr/bin/env bash
# P-Tuning v2 on ADGEN, with the flags of ChatGLM-6B's ptuning/train.sh: put AdvertiseGen/ beside the command, then
#   MODEL=/data/chatglm-6b bash scripts/train.sh
# PRE_SEQ_LEN, LR and MODEL come from the environment; further flags may follow: bash scripts/train.sh --max_steps 100
set -euo pipefail
PRE_SEQ_LEN=${PRE_SEQ_LEN:-128}
LR=${LR:-2e-2}
MODEL=${MODEL:-THUDM/chatglm-6b}

${IMPRINT:-imprint} main \
    --do_train \
    --train_file AdvertiseGen/train.json \
    --validation_file AdvertiseGen/dev.json \
    --prompt_column content \
    --response_column summary \
    --overwrite_cache \
    --model_name_or_path "$MODEL" \
    --output_dir "output/adgen-chatglm-6b-pt-$PRE_SEQ_LEN-$LR" \
    --overwrite_output_dir \
    --max_source_length 64 \
    --max_target_length 64 \
    --per_device_train_batch_size 1 \
    --per_device_eval_batch_size 1 \
    --gradient_accumulation_steps 16 \
    --predict_with_generate \
    --max_steps 3000 \
    --logging_steps 10 \
    --save_steps 1000 \
    --learning_rate "$LR" \
    --pre_seq_len "$PRE_SEQ_LEN" \
    --quantization_bit 4 \
    "$@"
