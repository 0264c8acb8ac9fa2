"""Texts as the tokens that scores count."""

import functools
import warnings

with warnings.catch_warnings():
    # jieba looks for the deprecated pkg_resources, and has escapes that Python >= 3.12 warns of when it compiles them.
    warnings.simplefilter("ignore")
    import jieba


def words(text: str) -> list[str]:
    """The words that ROUGE sees: jieba's cut of the text; joined they are the text again."""
    return [str(word) for word in _cutter().cut(text)]


def trimmed(cut: list[str]) -> list[str]:
    """The words without the blank ones at both ends: what jieba makes of the text without blanks at its ends."""
    solid = [place for place, word in enumerate(cut) if word.strip()]
    return cut[solid[0] : solid[-1] + 1] if solid else []


def without_spaces(cut: list[str]) -> list[str]:
    """The words without spaces and without words that are nothing but spaces; line breaks stay, as in ms-swift."""
    return [bare for word in cut if (bare := word.strip(" "))]


@functools.cache
def _cutter() -> jieba.Tokenizer:
    """Jieba with its own dictionary, whatever else in this process has taught the shared one.

    Filled here and not by its `initialize`, which logs to the terminal and trusts a file that anybody can put in the temporary
    folder; reading the dictionary takes half a second once.
    """
    cutter = jieba.Tokenizer()
    cutter.FREQ, cutter.total = cutter.gen_pfdict(cutter.get_dict_file())
    cutter.initialized = True
    return cutter
