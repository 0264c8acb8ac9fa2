from pathlib import Path

import numpy as np
import pytest
import torch

import imprint
from imprint import arguments
from imprint.messages import UserError
from imprint.model import Model
from tests.tiny import tiny_base


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return imprint.load(tiny_base(tmp_path_factory.mktemp("model") / "base"), device="cpu")


def test_what_fits_is_returned_in_the_type_of_python() -> None:
    assert arguments.text("a", "好") == "好"
    assert arguments.texts("a", ("x", "y")) == ["x", "y"]
    assert [arguments.integer("a", value) for value in (3, np.int64(3), torch.tensor(3))] == [3, 3, 3]
    assert arguments.number("a", 3) == 3.0
    assert arguments.token_ids("a", torch.tensor([1, 2])) == arguments.token_ids("a", np.array([1, 2])) == [1, 2]
    assert arguments.id_rows("a", [[1], (2, 3)]) == [[1], [2, 3]]
    assert arguments.path("a", "b") == Path("b")


@pytest.mark.parametrize(
    ("check", "value", "sentence"),
    [
        (arguments.text, None, "a: must be a text, got NoneType None."),
        (arguments.texts, "abc", "a: must be a list of texts, got str 'abc'."),
        (arguments.texts, ["x", None], "a[1]: must be a text, got NoneType None."),
        (arguments.integer, True, "a: must be an integer, got bool True."),
        (arguments.integer, 2.0, "a: must be an integer, got float 2.0."),
        (arguments.integer, "3", "a: must be an integer, got str '3'."),
        (arguments.number, "3", "a: must be a number, got str '3'."),
        (arguments.token_ids, "123", "a: must be a list of token ids, got str '123'."),
        (arguments.token_ids, [1, 2.5], "a[1]: must be an integer, got float 2.5."),
        (arguments.id_rows, [1, 2], "a[0]: must be a list of token ids, got int 1."),
        (arguments.id_rows, 5, "a: must be a list of rows, each a list of token ids, got int 5."),
        (arguments.id_rows, torch.tensor([1]), "a[0]: must be a list of token ids, got Tensor tensor(1)."),
        (arguments.number, 10**309, f"a: must be a number of at most 1e308, got int {'1' + '0' * 59}...."),
        (arguments.path, 3, "a: must be a path, got int 3."),
        (arguments.path, "a\0b", "a: must be a path, without NUL and half characters, got str 'a\\x00b'."),
        (arguments.path, "a\ud800", "a: must be a path, without NUL and half characters, got str 'a\\ud800'."),
        (arguments.path, "b/" + "好" * 99, f"a: must be a path, whose names have at most 255 bytes, got str 'b/{'好' * 57}...."),
    ],
)
def test_another_type_is_named(check: object, value: object, sentence: str) -> None:
    assert callable(check)
    with pytest.raises(UserError) as caught:
        check("a", value)
    assert str(caught.value).splitlines()[0] == sentence


def test_a_number_that_is_too_small_and_a_long_value_are_said_shortly() -> None:
    with pytest.raises(UserError, match="a: must be an integer of at least 3, got int 2"):
        arguments.integer("a", 2, at_least=3)
    with pytest.raises(UserError) as caught:
        arguments.text("a", ["x" * 10_000])
    assert len(str(caught.value)) < 200


def test_numbers_of_any_size_are_refused_or_used(talker: Model) -> None:
    huge, prompt = 10**30, talker.prompt("a")
    for sentence, ask in (
        ("max_length: must be at most 1000000", lambda: talker.chat("a", max_length=huge)),
        ("max_new_tokens: must be at most 1000000", lambda: talker.generate([prompt], huge)),
        ("num_beams: must be 1 to 1000", lambda: talker.generate([prompt], 1, num_beams=huge)),
        ("seed: must be an integer of at most 64 bits", lambda: talker.chat("a", seed=huge)),
    ):
        with pytest.raises(UserError, match=sentence):
            ask()
    assert talker.generate([prompt], 1, temperature=huge, seed=torch.tensor(3)) == talker.generate([prompt], 1, temperature=1e30, seed=3)  # type: ignore[arg-type]


def test_a_value_that_cannot_be_shown_is_reported_all_the_same() -> None:
    class Hostile:
        """Fails when it is shown."""

        def __repr__(self) -> str:
            raise ValueError("no")

    with pytest.raises(UserError, match=r"a: must be a text, got Hostile \?\."):
        arguments.text("a", Hostile())


def test_a_history_of_messages_is_the_conversation_of_pairs(talker: Model) -> None:
    spoken = [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "好"}]
    assert talker.prompt("继续", spoken) == talker.prompt("继续", [("你好", "好")])
    assert talker.prompt_of([*spoken, {"role": "user", "content": "继续"}]) == talker.prompt("继续", spoken)
    answer, history = talker.chat("继续", spoken, temperature=0, max_length=40)
    assert history == [*spoken, {"role": "user", "content": "继续"}, {"role": "assistant", "content": answer}]
    *_, (streamed, told) = talker.stream_chat("继续", spoken, temperature=0, max_length=40)
    assert (streamed, told) == (answer, history)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        ("m.prompt('继续', [('你好', None)])", "history[0][1]: must be a text"),
        ("m.prompt('继续', ['你好', '好的'])", "history[0]: must be a (question, answer) pair"),
        ("m.prompt(None)", "query: must be a text"),
        ("m.prompt('a', max_source_length='9')", "max_source_length: must be an integer"),
        ("m.prompt_of('a')", "messages: must be a list of"),
        ("m.prompt_of([])", "messages: must be at least one message"),
        ("m.template.prompt([{'role': 'user', 'text': 'a'}])", "messages[0]: a message has role and content"),
        ("m.chat(['a'])", "query: must be a text"),
        ("m.chat('a', system=3)", "system: must be a text"),
        ("m.chat('a', max_length=9.5)", "max_length: must be an integer"),
        ("m.chat('a', temperature='0')", "temperature: must be a number"),
        ("m.chat('a', seed='x')", "seed: must be an integer"),
        ("m.stream_chat('a', [{'role': 'bot', 'content': 'b'}])", "history[0].role: must be one of system, user"),
        ("m.generate([1, 2], 3)", "ids[0]: must be a list of token ids"),
        ("m.generate('ab', 3)", "ids: must be a list of rows"),
        ("m.generate([[1]], '3')", "max_new_tokens: must be an integer"),
        ("m.logits([['a']])", "ids[0][0]: must be an integer"),
        ("m.hidden_states([1])", "ids[0]: must be a list of token ids"),
        ("m.loss([[1, 2]], [1, 2])", "labels[0]: must be a list of token ids"),
        ("m.tokenizer.encode(None)", "text: must be a text"),
        ("m.tokenizer.decode('12')", "ids: must be a list of token ids"),
        ("m.tokenizer.decode([[1]])", "ids[0]: must be an integer"),
        ("imprint.load(3)", "folder: must be a path"),
        ("imprint.load('embedded', device=3)", "device: must be a text"),
        ("imprint.load('embedded', template='chatgml')", "template: chatgml does not fit"),
        ("imprint.metrics.score('好', '好')", "predictions: must be a list of texts"),
        ("imprint.metrics.score(['好'], [None])", "references[0]: must be a text"),
        ("imprint.metrics.score(['好'], ['好'], 3)", "protocol: must be a text"),
        ("imprint.quantize(3, 'out', 8)", "folder: must be a path"),
        ("imprint.data.encode_original(m.tokenizer, 'a', None, None, 9, 9)", "answer: must be a text"),
        ("imprint.data.encode_original(m.tokenizer, 'a', 'b', [{'role': 'user', 'content': 'c'}], 9, 9)", "history: must be turns"),
        ("imprint.data.encode_original_evaluation(m.tokenizer, 'a', 'b', None, '9', 9)", "max_source_length: must be an integer"),
    ],
)
def test_an_argument_of_another_kind_is_named(talker: Model, call: str, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        eval(call, {"m": talker, "imprint": imprint})
    assert str(caught.value).startswith(sentence)


def test_ids_of_a_tensor_are_those_of_a_list(talker: Model) -> None:
    ids = talker.tokenizer.encode("你好")
    assert talker.tokenizer.decode(torch.tensor(ids)) == talker.tokenizer.decode(ids) == "你好"
    assert torch.equal(talker.logits([torch.tensor(ids)])[0], talker.logits([ids])[0])  # type: ignore[list-item]
