"""Tuning methods: a prefix or a LoRA on a frozen network, or all of its parameters."""
