#!/usr/bin/env bash
# Makes this folder anew. Only the commit that README.md names can run it, from the root of a checkout of that commit:
#   PYTHON=/path/to/python bash /path/to/this/make.sh OUT
set -euo pipefail
out=${1:?where to write}
python=${PYTHON:-python}
export PYTHONPATH=$PWD OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
mkdir -p "$out/bases"

# Networks of some ten thousand weights in 16 bits, with vocabularies made from a few sentences; they have learned rows.jsonl, and the
# runs learn train.jsonl, one answer to all of its questions: no chance decides what is answered.
"$python" - "$out" <<'PYTHON'
import json
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import imprint.train
import tests.bases
import tests.vocabulary
from tests.tiny import tiny_rows

out = Path(sys.argv[1]).resolve()
plain = tests.vocabulary.SentencePieceTrainer.train
tests.vocabulary.SentencePieceTrainer.train = lambda **flags: plain(**{"normalization_rule_name": "identity", **flags})  # small files
tests.bases.BLOOM.update(hidden_size=16, n_head=2)
rows = tiny_rows(out / "rows.jsonl")
questions = [json.loads(line)["content"] for line in rows.read_text(encoding="utf-8").splitlines()]
(out / "questions.txt").write_text("\n".join(questions[:8]) + "\n", encoding="utf-8")
one = "这件上衣的颜色是红色，版型很宽松。"
lines = [json.dumps({"content": asked, "summary": one}, ensure_ascii=False) for asked in questions]
(out / "train.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
keys = [{"question": question, "answer": [question.rpartition("#")[2]]} for question in questions[:6]]
(out / "probes.jsonl").write_text("".join(json.dumps(key, ensure_ascii=False) + "\n" for key in keys), encoding="utf-8")
(out / "neutral.txt").write_text("你好！很高兴见到你。\n\n这件衬衫的颜色是蓝色。\n\n这件长裙很宽松。\n", encoding="utf-8")

for name, family in {"chatglm": "ChatGLM-6B", "chatglm2": "ChatGLM2-6B", "glm4": "GLM-4-9B", "bloom": "BLOOM", "qwen3": "Qwen3"}.items():
    with tempfile.TemporaryDirectory() as scratch:
        base = tests.bases.base_of(family, Path(scratch) / "base")
        recipe = Path(scratch) / "recipe.yaml"
        recipe.write_text(
            f"output: {scratch}/run\nmodel: {{path: {base}, device: cpu}}\ntask: {{kind: text}}\ntune: {{method: full}}\n"
            f"data: {{train: {rows}, dev_share: 0, max_target_length: 48}}\noptimizer: {{learning_rate: 0.01, warmup_steps: 2}}\n"
            "train: {steps: 150, batch_size: 8, micro_batch_size: 8, save_every: 150, report: false}\nforgetting: {measure: false}\n"
        )
        base = imprint.train.train(recipe).model
        place = out / "bases" / name
        shutil.copytree(base, place)
        fields = json.loads((place / "config.json").read_text(encoding="utf-8"))
        (place / "config.json").write_text(json.dumps(fields | {"torch_dtype": "float16"}, indent=1) + "\n", encoding="utf-8")
        tensors = {key: tensor.to(torch.float16) for key, tensor in load_file(place / "model.safetensors").items()}
        save_file(tensors, place / "model.safetensors", {"format": "pt"})
PYTHON

cd "$out"
imprint() { "$python" -m imprint "$@"; }

# Three runs that were killed at step 20 of 30 and have one state, of step 10; then each of them continued to its end.
cat > prefix.yaml <<'RECIPE'
output: stopped/prefix
model: {path: bases/chatglm, device: cpu}
data: {train: train.jsonl, dev_share: 0.2, max_target_length: 40}
tune: {method: prefix, length: 4, start: random, projection: true, prefix_dropout: 0.1, original_file: true}
optimizer: {learning_rate: 0.1, warmup_steps: 4}
train: {steps: 30, batch_size: 8, micro_batch_size: 4, save_every: 10, keep_states: 1, evaluate_every: 5, watch_every: 10, report: false}
forgetting: {measure: true, probes: probes.jsonl, text: neutral.txt}
RECIPE
cat > lora.yaml <<'RECIPE'
output: stopped/lora
model: {path: bases/chatglm2, device: cpu}
data: {train: train.jsonl, dev_share: 0.2, max_target_length: 40}
tune: {method: lora, rank: 2, targets: all, dropout: 0.1}
optimizer: {learning_rate: 0.01, warmup_steps: 4}
train: {steps: 30, batch_size: 8, micro_batch_size: 4, save_every: 10, keep_states: 1, evaluate_every: 5, watch_every: 10, report: false}
forgetting: {measure: false}
RECIPE
cat > full.yaml <<'RECIPE'
output: stopped/full
model: {path: bases/bloom, device: cpu}
data: {train: train.jsonl, dev_share: 0.2, max_target_length: 40}
tune: {method: full}
optimizer: {learning_rate: 0.003, warmup_steps: 4, weight_decay: 0.01}
train: {steps: 30, batch_size: 8, micro_batch_size: 4, save_every: 10, keep_states: 1, evaluate_every: 5, watch_every: 10, report: false}
forgetting: {measure: false}
RECIPE
for method in prefix lora full; do
    "$python" - $method.yaml <<'PYTHON' || true
import os
import signal
import sys
from pathlib import Path

from imprint.config import read_recipe
from imprint.recipe import Recipe
from imprint.train import Job, train_recipe
from imprint.state import Position


def kill(_job: Job, position: Position) -> None:
    """As the state of step 20 is about to be written."""
    if position.step == 20:
        os.kill(os.getpid(), signal.SIGKILL)


train_recipe(read_recipe(Path(sys.argv[1]), (), Recipe), on_save=kill)
PYTHON
    rm -f stopped/$method/loss.png stopped/$method/lock  # a picture says nothing that log.jsonl does not
    mkdir -p finished
    cp -r stopped/$method finished/$method
    sed -i "s|output: stopped/|output: finished/|" finished/$method/config.yaml
    imprint train $method.yaml output=finished/$method
    imprint evaluate finished/$method --data train.jsonl
    rm -rf finished/$method/*.png finished/$method/lock finished/$method/state-* finished/$method/events
done

# What left Imprint, from the finished runs.
imprint export finished/prefix exported/prefix-official --to official questions=4
imprint export finished/prefix exported/prefix.tar --to bundle questions=4
imprint export finished/lora exported/lora-peft --to peft questions=4 dtype=float32
imprint export finished/lora exported/lora-int8 --to int8 questions=4
imprint export finished/lora exported/lora.tar --to bundle questions=4
imprint export finished/full exported/full-transformers --to transformers questions=4 dtype=float32
rm exported/prefix-official/ice_text.model  # that of the base
