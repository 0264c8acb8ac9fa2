#!/usr/bin/env bash
# P-Tuning v2 on conversations, with the flags of ChatGLM-6B's ptuning/train_chat.sh: rows of prompt, response and history.
#   CHAT_TRAIN_DATA=train.json CHAT_VAL_DATA=dev.json CHECKPOINT_NAME=output/chat MODEL=/data/chatglm-6b bash scripts/train_chat.sh
set -euo pipefail
PRE_SEQ_LEN=${PRE_SEQ_LEN:-8}
LR=${LR:-1e-2}
MODEL=${MODEL:-THUDM/chatglm-6b}

${IMPRINT:-imprint} main \
    --do_train \
    --train_file "${CHAT_TRAIN_DATA:?name the file of rows to learn from / 请设置训练数据文件}" \
    --validation_file "${CHAT_VAL_DATA:?name the file of held-out rows / 请设置验证数据文件}" \
    --prompt_column prompt \
    --response_column response \
    --history_column history \
    --overwrite_cache \
    --model_name_or_path "$MODEL" \
    --output_dir "${CHECKPOINT_NAME:?name the folder to write to / 请设置输出目录}" \
    --overwrite_output_dir \
    --max_source_length 256 \
    --max_target_length 256 \
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
