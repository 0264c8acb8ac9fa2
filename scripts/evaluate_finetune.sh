#!/usr/bin/env bash
# A checkpoint of all weights on ADGEN's held-out rows, with the flags of ChatGLM-6B's ptuning/evaluate_finetune.sh.
#   CHECKPOINT=adgen-chatglm-6b-ft-1e-4 STEP=3000 bash scripts/evaluate_finetune.sh
set -euo pipefail
CHECKPOINT=${CHECKPOINT:-adgen-chatglm-6b-ft-1e-4}
STEP=${STEP:-3000}

${IMPRINT:-imprint} main \
    --do_predict \
    --validation_file AdvertiseGen/dev.json \
    --test_file AdvertiseGen/dev.json \
    --overwrite_cache \
    --prompt_column content \
    --response_column summary \
    --model_name_or_path "./output/$CHECKPOINT/checkpoint-$STEP" \
    --output_dir "./output/$CHECKPOINT" \
    --overwrite_output_dir \
    --max_source_length 256 \
    --max_target_length 256 \
    --per_device_eval_batch_size 1 \
    --predict_with_generate \
    --fp16_full_eval \
    "$@"
