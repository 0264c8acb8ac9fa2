"""Decoding and scoring: from prompt ids to answer ids, and log-probabilities of given answers."""
