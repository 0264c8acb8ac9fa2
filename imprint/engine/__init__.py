"""Processes, devices and the optimizer: a single process, DDP, FSDP or DeepSpeed ZeRO behind one interface."""
