"""Stands in the place of ChatGLM-6B's ptuning/main.py: an old train.sh that calls `python3 main.py ...` runs unchanged."""

import sys

from imprint.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["main", *sys.argv[1:]]))
