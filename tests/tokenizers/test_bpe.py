import json

from tokenizers import Tokenizer

from imprint.tokenizers.bpe import bpe_model


def test_the_library_reads_it_and_joins_the_first_pair_first() -> None:
    model = bpe_model({"a": 0, "b": 1, "c": 2, "bc": 3, "ab": 4}, [("b", "c"), ("a", "b")])

    tokenizer = Tokenizer.from_str(json.dumps({"version": "1.0", "added_tokens": [], "model": model}))

    assert tokenizer.encode("abcab").tokens == ["a", "bc", "ab"]
