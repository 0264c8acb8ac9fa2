"""Samples from files, and rows of token ids from samples."""

from imprint.data.original import encode_original, encode_original_evaluation

__all__ = ["encode_original", "encode_original_evaluation"]
