import pytest
from tokenizers import Regex, pre_tokenizers

from imprint.tokenizers.splitting import DEFAULT, SPLITTINGS, Splitting

TEXT = "It's  GPT4o's 12345 días!?\r\n\n\t你好，世界。ありがとう 한국 é\u0301 😀 a/b_c\u00a0   end  "


@pytest.mark.parametrize("splitting", dict.fromkeys(SPLITTINGS.values()))
def test_every_pattern_is_one_that_the_library_reads_and_loses_nothing(splitting: Splitting) -> None:
    splits = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in splitting.patterns]
    parts = pre_tokenizers.Sequence(splits).pre_tokenize_str(TEXT)
    assert "".join(part for part, _span in parts) == TEXT
    assert len(parts) > 8


def test_gpt_2_is_split_as_the_library_splits_byte_level_texts() -> None:
    ours = pre_tokenizers.Split(Regex(DEFAULT.patterns[0]), behavior="isolated").pre_tokenize_str(TEXT)
    theirs = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True).pre_tokenize_str(TEXT)
    assert [span for _part, span in ours] == [span for _part, span in theirs]


def test_only_vocabularies_of_llama_3_and_tekken_add_bos_of_themselves() -> None:
    assert {"llama-bpe", "tekken"} <= {name for name, splitting in SPLITTINGS.items() if splitting.adds_bos}
    assert not SPLITTINGS["qwen2"].adds_bos
