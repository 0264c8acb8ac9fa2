import pytest

from imprint.messages import UserError
from imprint.tokenizers import render_chat_template
from imprint.tokenizers.hf import SpecialTokens
from tests.families import CHAT

MANNERS = SpecialTokens((), (2,), CHAT, {"bos_token": "<s>"})


def test_a_conversation_is_rendered_as_the_template_says() -> None:
    said = [{"role": "system", "content": " be kind "}, {"role": "user", "content": "你好"}]
    assert render_chat_template(MANNERS, said, answering=True) == "<|system|>\nbe kind<|end|>\n<|user|>\n你好<|end|>\n<|assistant|>\n"
    assert (
        render_chat_template(MANNERS, said[1:], [{"name": "weather"}], answering=False) == "<|system|>tools weather<|user|>\n你好<|end|>\n"
    )


def test_a_template_knows_the_names_of_the_tokens() -> None:
    assert (
        render_chat_template(
            SpecialTokens((), (), "{{ bos_token }}", {"bos_token": "<s>"}), [{"role": "user", "content": ""}], answering=False
        )
        == "<s>"
    )


@pytest.mark.parametrize("template", ["{% for %}", "{{ messages.__class__.__mro__ }}{{ ''.__class__.__base__.__subclasses__() }}"])
def test_what_a_template_refuses_or_may_not_do_is_reported(template: str) -> None:
    with pytest.raises(UserError, match=r"the model's own chat template cannot write this conversation \(user\): "):
        render_chat_template(SpecialTokens((), (), template, {}), [{"role": "user", "content": "a"}], answering=True)
    late = [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]
    with pytest.raises(UserError, match=r"\(user system\): the system speaks first. .* set template=plain"):
        render_chat_template(MANNERS, late, answering=True)
