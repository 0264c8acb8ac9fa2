"""Word segmentation for metrics."""

import functools
import threading
import warnings
from typing import Final

with warnings.catch_warnings():
    # jieba imports the deprecated pkg_resources and has invalid escapes: warnings since Python 3.12.
    warnings.simplefilter("ignore")
    import jieba
    from jieba import finalseg

MAX_TEXT_CHARACTERS: Final = 1000
"""Characters of a text above which jieba's own search for unknown words, whose time grows with their square, is not used."""
_LOADING = threading.Lock()


def load_dictionary_ahead() -> None:
    """Load jieba's dictionary in a second thread, while answers are generated; whoever segments a text meanwhile waits for it."""
    threading.Thread(target=_tokenizer, daemon=True).start()


def segment(text: str) -> list[str]:
    """Jieba's words of the text, which ROUGE counts; joined they equal the text. Takes time linear in the text."""
    if len(text) <= MAX_TEXT_CHARACTERS:
        return [str(word) for word in _tokenizer().cut(text)]
    blocks = jieba.re_han_default.split(text)
    return [
        str(word) for block in blocks for word in (_block_words(block) if len(block) > MAX_TEXT_CHARACTERS else _tokenizer().cut(block))
    ]


def _block_words(block: str) -> list[str]:
    """The words of a part that jieba looks at as a whole: those of the most likely way through its dictionary."""
    if not jieba.re_han_default.match(block):
        return list(_tokenizer().cut(block))
    route: dict[int, tuple[float, int]] = {}
    _tokenizer().calc(block, _tokenizer().get_DAG(block), route)
    words: list[str] = []
    position = singles = 0
    while position < len(block):
        end = route[position][1] + 1
        if end - position > 1:
            words += [*_single_words(block[singles:position]), block[position:end]]
            singles = end
        position = end
    return words + _single_words(block[singles:])


def _single_words(run: str) -> list[str]:
    """The words of characters for which the dictionary has no longer words: themselves, or those that jieba's Markov model sees."""
    if len(run) <= 1 or _tokenizer().FREQ.get(run):
        return list(run)
    parts = finalseg.re_han.split(run)
    return [word for part in parts for word in (_model_words(part) if len(part) > MAX_TEXT_CHARACTERS else finalseg.cut(part))]


def _model_words(part: str) -> list[str]:
    """What `finalseg.cut` gives: a word ends where the most likely state of a character is an end, or a single one."""
    if not finalseg.re_han.match(part):
        return list(finalseg.cut(part))
    words, begin = [], 0
    for end, state in enumerate(_states(part), start=1):
        if state in "ES":
            words.append(part[begin:end])
            begin = end
    return [piece for word in words for piece in (word if word in finalseg.Force_Split_Words else [word])]


def _states(part: str) -> list[str]:
    """The most likely states (begin, middle, end of a word, single) of the characters, by the Viterbi algorithm with back pointers.

    Sums and ties are those of `finalseg.viterbi`, which instead copies all states so far for each character.
    """
    lowest = finalseg.MIN_FLOAT
    scores = {state: finalseg.start_P[state] + finalseg.emit_P[state].get(part[0], lowest) for state in "BMES"}
    pointers: list[dict[str, str]] = []
    for character in part[1:]:
        best = {}
        for state, earlier in finalseg.PrevStatus.items():
            emitted = finalseg.emit_P[state].get(character, lowest)
            best[state] = max((scores[before] + finalseg.trans_P[before].get(state, lowest) + emitted, before) for before in earlier)
        scores = {state: score for state, (score, _before) in best.items()}
        pointers.append({state: before for state, (_score, before) in best.items()})
    states = [max((scores[state], state) for state in "ES")[1]]
    for pointer in reversed(pointers):
        states.append(pointer[states[-1]])
    return states[::-1]


def strip_whitespace(words: list[str]) -> list[str]:
    """The words without blank ones at both ends: as if the text had been stripped before segmentation."""
    kept = [index for index, word in enumerate(words) if word.strip()]
    return words[kept[0] : kept[-1] + 1] if kept else []


def strip_spaces(words: list[str]) -> list[str]:
    """The words stripped of spaces, without empty ones; line breaks stay, as in ms-swift."""
    return [stripped for word in words if (stripped := word.strip(" "))]


def _tokenizer() -> jieba.Tokenizer:
    with _LOADING:
        return _loaded_tokenizer()


@functools.cache
def _loaded_tokenizer() -> jieba.Tokenizer:
    """A jieba tokenizer of our own: words that other code adds to jieba's global one do not change scores.

    The dictionary is not loaded by jieba's `initialize`, which logs to the terminal and trusts a cache file in the temporary folder.
    """
    tokenizer = jieba.Tokenizer()
    tokenizer.FREQ, tokenizer.total = _dictionary(tokenizer)
    tokenizer.initialized = True
    return tokenizer


def _dictionary(tokenizer: jieba.Tokenizer) -> tuple[dict[str, int], int]:
    """What jieba's `gen_pfdict` reads, in half the time: the count of each word, 0 for beginnings of words, and their sum."""
    with tokenizer.get_dict_file() as file:
        fields = file.read().decode("utf-8").split()  # word, count and part of speech of each line
    words, counts = fields[::3], [*map(int, fields[1::3])]
    found = dict(zip(words, counts, strict=True))
    for word in words:
        beginning = word[:-1]
        while beginning and beginning not in found:
            found[beginning] = 0
            beginning = beginning[:-1]
    return found, sum(counts)
