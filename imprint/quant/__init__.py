"""Quantized weights: the formats, the layers that hold them, and the kernels that compute with them; and products with plain weights."""
