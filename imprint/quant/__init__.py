"""Quantized weights: the formats, and the layers that compute with them."""
