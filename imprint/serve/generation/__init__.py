"""Requests of many users to tokens and text: the worker that owns the model, or servers behind this one."""
