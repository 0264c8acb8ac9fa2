#!/usr/bin/env bash
# Chat in the browser, as ChatGLM-6B's web_demo.sh did: open the address that it prints, http://127.0.0.1:8504, once it says "ready".
# Runs of one base, and knobs, may follow; without a run it takes runs/demo, which `make demo` makes, or else the toy base alone:
#   bash scripts/web_demo.sh runs/adgen-prefix runs/identity port=8080
set -euo pipefail
model=runs/demo
for word in "$@"; do
    case $word in *=*) ;; *) model="" ;; esac
done
if [ "$model" ] && [ ! -d "$model" ]; then
    echo "$model is not there yet, \`make demo\` makes it: the toy base answers alone / 尚无 $model（由 make demo 生成），仅由玩具底座回答" >&2
    model=embedded
fi
exec ${IMPRINT:-imprint} serve ${model:+"$model"} "$@"
