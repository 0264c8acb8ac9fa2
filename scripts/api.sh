#!/usr/bin/env bash
# An API in the form of ChatGLM-6B's api.py, at its port, without a key on this machine; OpenAI's form, with a key, at the same port.
#   bash scripts/api.sh runs/demo
#   curl -X POST http://127.0.0.1:8000 -H 'Content-Type: application/json' -d '{"prompt": "你好", "history": []}'
set -euo pipefail
exec bash "$(dirname "$0")/web_demo.sh" legacy=true port=8000 "$@"
