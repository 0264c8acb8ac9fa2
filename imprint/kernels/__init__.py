"""Kernels in Triton, the PyTorch operations that launch them, and their tile sizes; everything works without Triton, more slowly."""
