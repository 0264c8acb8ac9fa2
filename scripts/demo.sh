#!/usr/bin/env bash
# The main job from the first to the last step, on the toy base that comes with Imprint. Each line is a command that you can type yourself.
set -euo pipefail
cd "$(dirname "$0")/.."
imprint=${IMPRINT:-imprint}
say() { printf '\n== %s\n   %s\n' "$1" "$2"; }

say "1/8  make rows: attribute lists and ad copy" "生成数据：商品属性和广告文案"
$imprint demo rows runs/demo-data
say "2/8  rows of another job: twenty that give the model a new name and author" "另一项任务的数据：20 条，给模型新的名字和作者（思想钢印）"
$imprint demo identity runs/identity-data
# Neither job needs the other: this one runs beside steps 3 to 6, so that no core waits, and step 7 shows what it prints.
$imprint train recipes/identity-lora.yaml > runs/identity.log 2>&1 &
identity=$!
trap 'kill "$identity" 2> /dev/null || true' EXIT
say "3/8  P-Tuning v2: only a prefix is trained, the base stays as it is" "P-Tuning v2：只训练前缀，底座不变"
$imprint train recipes/demo.yaml
say "4/8  the untouched base on held-out rows" "微调前：在留出数据上打分"
$imprint evaluate runs/demo --data runs/demo-data/dev.jsonl base=true
say "5/8  the tuned model on the same rows" "微调后：在同样的数据上打分"
$imprint evaluate runs/demo --data runs/demo-data/dev.jsonl
say "6/8  before and after, side by side" "微调前后对照"
$imprint compare runs/demo --data runs/demo-data/dev.jsonl
say "7/8  LoRA, which ran meanwhile: thin matrices beside the base, and three general rows beside each of yours" \
    "LoRA（与前面几步同时运行）：底座旁边的低秩矩阵；每条自己的数据配三条通用数据"
wait "$identity" || { status=$?; cat runs/identity.log; exit "$status"; }
cat runs/identity.log
say "8/8  ask it who it is" "问问它是谁"
printf '你是谁？\nWho made you?\n今天真冷\n12+30=?\n' | $imprint chat runs/identity temperature=0

cat <<'TEXT'

Open  runs/demo/compare.html      what tuning changed, answer by answer / 微调前后逐条对照
      runs/identity/report.html   the new identity, what the base still can, curves / 新身份、原有能力与曲线
      runs/demo/loss.png          how it learned / 损失曲线
First source .venv/bin/activate   in each new terminal, or `imprint` is not found / 新开的终端里先运行这一句
Talk  imprint chat runs/demo   /prefix off lets the base answer / 与它对话，/prefix off 换回底座
Next  other knobs, another name, your own rows / 换几个选项、换个名字、换成自己的数据：
      imprint train recipes/demo.yaml tune.start=random tune.length=8 output=runs/short
      imprint train recipes/identity-lora.yaml data.fill.name=YOURS data.fill.author=YOURS output=runs/named
      imprint data check YOURS.jsonl                    what is wrong with it / 检查数据
      imprint train recipes/demo.yaml data.train=YOURS.jsonl data.dev=null output=runs/yours
      Your own ChatGLM-6B folder goes into model.path. / 把 model.path 换成官方 ChatGLM-6B 目录即可。
Let others use it, in the browser and by an API / 给别人用：网页与 API
      imprint serve runs/demo
TEXT
