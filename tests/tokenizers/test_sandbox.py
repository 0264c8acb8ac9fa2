import time
from datetime import datetime

import pytest
from jinja2 import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from imprint.tokenizers import sandbox
from imprint.tokenizers.sandbox import MAX_SOURCE, LimitError, render
from tests.bounded import cpu_time
from tests.families import CHAT

SHARED = (
    "{% set ns = namespace(x=[], y=[]) %}{% for i in range(40) %}{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}{% endfor %}"
)
"""A template that makes two lists of lists, each of 2 ** 40 lists if it were written out."""
SAID = [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "好"}, {"role": "user", "content": "<再见>"}]
USUAL = (
    (
        "{%- set ns = namespace(last=0, text='') -%}{%- for m in messages -%}{%- if m.role == 'user' -%}{%- set ns.last = loop.index0 -%}"
        "{%- endif -%}{%- if loop.index0 > 10 -%}{%- break -%}{%- endif -%}{%- endfor -%}{{ ns.last }}"
    ),
    (
        "{% macro line(m) %}[{{ m['role'] | upper }}] {{ m.content.strip().replace('好', 'ok') ~ '!' * 3 }}\n{% endmacro %}"
        "{% for m in messages if m.role != 'system' %}{{ line(m) }}{% endfor %}"
    ),
    "{{ messages | tojson(indent=2) }}{{ {'b': '<中>', 'a': 1} | tojson }}{{ messages | map(attribute='role') | join(', ') }}",
    "{% for m in messages %}{% generation %}{{ '%s-%02d' % (m.content, loop.index) }}{% endgeneration %}{% endfor %}",
    "{{ '{:>4}'.format('x') }}{{ 'abc' | truncate(5) }}{{ 'a b' | title | center(9) }}",
    "{% for a in [1, [2, [3]]] recursive %}{{ loop(a) if a is iterable else a }}{% endfor %}{{ 2 ** 10 + 7 % 4 }}{{ none is none }}",
    "{{ messages[1:] | length }}{{ messages[-1]['content'].split('再')[0] }}{{ dict(a=1).items() | list }}{{ tools is defined }}",
)
ENDLESS = (
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) if false %}{% endfor %}{% endfor %}",
    "{% for x in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}",
    "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
)
LARGE = (
    "{{ 'a' * 10 ** 10 }}",
    "{{ 10 ** (9 ** 9) }}",
    "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x | length }}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
    "{{ ('a' * 1000000).replace('a', 'b' * 1000000) }}",
    "{{ ('x' * 100000) | join(',' * 100000) }}",
    "{{ 'x' | center(10 ** 10) }}",
    "{{ 'x'.ljust(10 ** 10) }}",
    "{{ '%0999999999d' % 1 }}",
    "{{ '%*d' % (10 ** 9, 1) }}",
    "{{ '{:>999999999}'.format(1) }}",
    "{{ '%0999999999d' | format(1) }}",
    "{% for i in range(99999) %}{{ 'abcdefgh' * 10000 }}{% endfor %}",
    "{{ ([1] * 90000) | map('center', 10000) | list | length }}",
    "{{ 'abc' * 100000 }}",
    SHARED + "{{ ns.x == ns.y }}",
    SHARED + "{{ [ns.x, ns.y] | sort | length }}",
    SHARED + "{{ ns.x | upper | length }}",
    "{% set ns = namespace(x=()) %}{% for i in range(40) %}{% set ns.x = (ns.x, ns.x) %}{% endfor %}{{ {ns.x: 1} | length }}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(40) %}{% set ns.x = (ns.x * 2) | batch(2) | list %}{% endfor %}{{ ns.x == 1 }}",
    "{% set ns = namespace(x='a') %}{% for i in range(40) %}{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}{% endfor %}",
    "{{ 1 | round(-999999999) }}",
    "{{ range(99999) | reject('in', range(99999) | list) | list | length }}",
    "{{ [[[[1]]]] | tojson(indent=999999999) }}",
    "{{ ([1] * 100000) | tojson(separators=('x' * 100000, ':')) }}",
    "{{ '{:>{}}'.format(1, 999999999) }}",
    "{{ '{a:>{b}}'.format_map({'a': 1, 'b': 999999999}) }}",
)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A template has half a second, not three."""
    monkeypatch.setattr(sandbox, "MAX_SECONDS", 0.5)


@pytest.mark.parametrize("template", [CHAT, *USUAL])
def test_an_honest_template_is_rendered_as_transformers_does(template: str) -> None:
    expected = render_jinja_template(conversations=[SAID], chat_template=template, add_generation_prompt=True)[0][0]
    variables = {"messages": SAID, "tools": None, "documents": None, "add_generation_prompt": True}
    assert render(template, variables, size=6, moment=None) == expected


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("template", [*ENDLESS, *LARGE])
def test_a_template_without_end_or_measure_stops(template: str) -> None:
    start = time.monotonic()
    with pytest.raises((LimitError, RecursionError)):
        render(template, {}, size=0, moment=None)
    assert time.monotonic() - start < 3


def test_a_template_may_not_leave_the_sandbox() -> None:
    for template in ("{{ ''.__class__.__mro__ }}", "{% set l = [] %}{{ l.append(1) }}", "{{ raise_exception('no') }}", "{{ lipsum() }}"):
        try:
            assert not render(template, {}, size=0, moment=None).strip()
        except TemplateError:
            continue
    for name in ("'a'.encode()", "(1).to_bytes(4000000000, 'big')"):
        with pytest.raises(TemplateError, match=r"unsafe|undefined"):
            render("{{ " + name + " }}", {}, size=0, moment=None)
    assert render("{% set ns = namespace(x=1) %}{% set ns.y = ns %}{{ ns }}", {}, size=0, moment=None) == "<Namespace>"
    with pytest.raises(LimitError, match="characters; at most 65536 are read"):
        render("a" * (MAX_SOURCE + 1), {}, size=0, moment=None)


def test_the_largest_template_is_compiled_soon() -> None:
    names = "".join(f"{{%set a{number}=1%}}" for number in range(MAX_SOURCE // 32))
    branches = "{%if a1%}{%endif%}" * ((MAX_SOURCE - len(names)) // len("{%if a1%}{%endif%}"))
    with cpu_time(at_most=8):
        assert render(names + branches, {}, size=0, moment=None) == ""


def test_a_long_conversation_is_no_excess() -> None:
    messages = [{"role": "user", "content": "好" * 1000}] * 3000
    assert len(render(CHAT, {"messages": messages}, size=3_000_000, moment=None)) > 3_000_000


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("one", ["{% if s.count('ab') %}{% endif %}", "{% if s[::-1] %}{% endif %}", "{% set t = s[1:] %}"])
def test_what_stands_in_a_template_thousands_of_times_is_stopped_in_time(one: str) -> None:
    template = "{% set s = 'a' * 4900000 %}" + one * 1500
    began = time.process_time()
    with pytest.raises(LimitError):
        render(template, {}, size=0, moment=None)
    assert time.process_time() - began < 3


@pytest.mark.parametrize("part", ["%c", "%0250d", "%-Z", "\udc80"])
def test_a_date_in_a_format_of_millions_of_characters_is_refused_before_it_is_written(part: str) -> None:
    with pytest.raises(LimitError, match="a format of more than 1000 characters"):
        render(f"{{{{ strftime_now('{part}' * 1001) | length }}}}", {}, size=0, moment=None)


@pytest.mark.parametrize("part", ["\ud800", "%\udc80"])
def test_a_date_that_no_encoding_can_hold_is_refused_at_once(part: str) -> None:
    began = time.process_time()
    with pytest.raises(UnicodeEncodeError):
        render(f"{{{{ strftime_now('{part}') }}}}", {}, size=0, moment=None)
    assert time.process_time() - began < 1


def test_the_date_is_that_of_the_moment() -> None:
    today = "{{ strftime_now('%d %b %Y') }}"
    assert render(today, {}, size=0, moment=datetime(2026, 1, 2)) == "02 Jan 2026"
    assert render(today, {}, size=0, moment=None) == datetime.now().strftime("%d %b %Y")
