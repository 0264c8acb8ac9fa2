#!/usr/bin/env bash
# The base with a prefix that was trained, on ADGEN's held-out rows, with the flags of ChatGLM-6B's ptuning/evaluate.sh.
#   CHECKPOINT=adgen-chatglm-6b-pt-128-2e-2 STEP=3000 MODEL=/data/chatglm-6b bash scripts/evaluate.sh
set -euo pipefail
PRE_SEQ_LEN=${PRE_SEQ_LEN:-128}
CHECKPOINT=${CHECKPOINT:-adgen-chatglm-6b-pt-128-2e-2}
STEP=${STEP:-3000}
MODEL=${MODEL:-THUDM/chatglm-6b}

${IMPRINT:-imprint} main \
    --do_predict \
    --validation_file AdvertiseGen/dev.json \
    --test_file AdvertiseGen/dev.json \
    --overwrite_cache \
    --prompt_column content \
    --response_column summary \
    --model_name_or_path "$MODEL" \
    --ptuning_checkpoint "./output/$CHECKPOINT/checkpoint-$STEP" \
    --output_dir "./output/$CHECKPOINT" \
    --overwrite_output_dir \
    --max_source_length 64 \
    --max_target_length 64 \
    --per_device_eval_batch_size 1 \
    --predict_with_generate \
    --pre_seq_len "$PRE_SEQ_LEN" \
    --quantization_bit 4 \
    "$@"
