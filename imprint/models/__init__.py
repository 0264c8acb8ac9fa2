"""Networks as plain PyTorch modules, one architecture a file, and the folders they are read from."""
