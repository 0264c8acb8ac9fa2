import pytest

from imprint.errors import UserError
from imprint.tokenizers import render
from imprint.tokenizers.hf import Manners
from tests.families import CHAT

MANNERS = Manners((), (2,), CHAT, {"bos_token": "<s>"})


def test_a_conversation_is_rendered_as_the_template_says() -> None:
    said = [{"role": "system", "content": " be kind "}, {"role": "user", "content": "你好"}]
    assert render(MANNERS, said, answering=True) == "<|system|>\nbe kind<|end|>\n<|user|>\n你好<|end|>\n<|assistant|>\n"
    assert render(MANNERS, said[1:], [{"name": "weather"}], answering=False) == "<|system|>tools weather<|user|>\n你好<|end|>\n"


def test_a_template_knows_the_names_of_the_tokens() -> None:
    assert render(Manners((), (), "{{ bos_token }}", {"bos_token": "<s>"}), [{"role": "user", "content": ""}], answering=False) == "<s>"


@pytest.mark.parametrize("template", ["{% for %}", "{{ messages.__class__.__mro__ }}{{ ''.__class__.__base__.__subclasses__() }}"])
def test_what_a_template_refuses_or_may_not_do_is_told(template: str) -> None:
    with pytest.raises(UserError, match=r"the model's own chat template cannot write this conversation \(user\): "):
        render(Manners((), (), template, {}), [{"role": "user", "content": "a"}], answering=True)
    late = [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]
    with pytest.raises(UserError, match=r"\(user system\): the system speaks first. .* set template=plain"):
        render(MANNERS, late, answering=True)
