"""A ChatGLM-6B project of 2023 as it is: the flags of ptuning/main.py, its shell scripts, and the files that it wrote."""
