import pytest

from imprint.messages import UserError
from imprint.tokenizers import render_chat_template
from imprint.tokenizers.special_tokens import SpecialTokens
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


@pytest.mark.parametrize(
    "template",
    [
        "{{ 1/0 }}",
        "{% for i in range(10**9) %}{% endfor %}",
        "{{ '%c' % 99999999 }}",
        "{{ messages|slice(0)|list }}",
        "{{ (1e308*10)|int }}",
        "{{ 'x'.encode('evil') }}",
        "{{ " + "(" * 5000,
        "{% include 'a' %}",
        "{{ messages | tojson(indent='x' * 3, separators=1) }}",
    ],
)
def test_whatever_a_template_raises_is_a_sentence(template: str) -> None:
    with pytest.raises(UserError, match=r"the model's own chat template cannot write this conversation \(user\): .+ set template=plain"):
        render_chat_template(SpecialTokens((), (), template, {}), [{"role": "user", "content": "a"}], answering=True)


def test_half_a_character_in_a_message_can_be_printed() -> None:
    with pytest.raises(UserError) as caught:
        render_chat_template(SpecialTokens((), (), "{{ raise_exception('\\ud800') }}", {}), [], answering=True)
    assert "\ufffd" in str(caught.value).encode().decode()


def test_a_long_message_of_a_template_is_cut() -> None:
    with pytest.raises(UserError) as caught:
        render_chat_template(SpecialTokens((), (), "{{ raise_exception('x' * 100000) }}", {}), [], answering=True)
    assert len(str(caught.value)) < 600
