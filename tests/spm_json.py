"""Small vocabularies of the SentencePiece kind as a tokenizer.json, with the two ways in which published ones put a space before a text."""
