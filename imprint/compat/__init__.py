"""Runs ChatGLM-6B projects of 2023 unchanged: the flags of ptuning/main.py, its shell scripts, and the files that it wrote."""
