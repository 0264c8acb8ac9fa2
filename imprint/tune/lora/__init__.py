"""LoRA: a trained product of two thin matrices beside a frozen linear (Hu et al. 2021, arXiv 2106.09685), through peft."""
