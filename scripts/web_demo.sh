#!/usr/bin/env bash
# Chat in the browser, as ChatGLM-6B's web_demo.sh did: open the address that it prints, http://127.0.0.1:8504, once it says "ready".
# Runs of one base, and knobs, may follow:
#   bash scripts/web_demo.sh runs/adgen-prefix runs/identity port=8080
set -euo pipefail
[ $# -gt 0 ] || set -- runs/demo
exec ${IMPRINT:-imprint} serve "$@"
