"""Word segmentation for metrics."""

import functools
import warnings

with warnings.catch_warnings():
    # jieba imports the deprecated pkg_resources and has invalid escapes: warnings since Python 3.12.
    warnings.simplefilter("ignore")
    import jieba


def segment(text: str) -> list[str]:
    """Jieba's words of the text, which ROUGE counts; joined they equal the text."""
    return [str(word) for word in _tokenizer().cut(text)]


def strip_whitespace(words: list[str]) -> list[str]:
    """The words without blank ones at both ends: as if the text had been stripped before segmentation."""
    kept = [index for index, word in enumerate(words) if word.strip()]
    return words[kept[0] : kept[-1] + 1] if kept else []


def strip_spaces(words: list[str]) -> list[str]:
    """The words stripped of spaces, without empty ones; line breaks stay, as in ms-swift."""
    return [stripped for word in words if (stripped := word.strip(" "))]


@functools.cache
def _tokenizer() -> jieba.Tokenizer:
    """A jieba tokenizer of our own: words that other code adds to jieba's global one do not change scores.

    The dictionary is not loaded by jieba's `initialize`, which logs to the terminal and trusts a cache file in the temporary folder;
    loading it takes half a second once.
    """
    tokenizer = jieba.Tokenizer()
    tokenizer.FREQ, tokenizer.total = tokenizer.gen_pfdict(tokenizer.get_dict_file())
    tokenizer.initialized = True
    return tokenizer
