"""Rows, documents, questions and predictions from files of any format and encoding."""
