"""Networks as plain PyTorch modules, one architecture per file, and the reading and writing of their weights."""
