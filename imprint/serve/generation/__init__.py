"""Requests of many users to tokens and text: the worker that owns the model, its queue and the events of an answer."""
