"""Hostile chat templates and vocabularies: each is read in a process of its own, whose time, memory and last words are kept.

    python -m tests.hostile_folders FOLDER            prints a line for each one that broke a promise, and the figures

A folder is read and a conversation is encoded, or a sentence says why not: no traceback, in 20 seconds of a machine that others may use,
with at most 500 MB more memory than before.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from imprint.data.encode import encode_messages
from imprint.messages import UserError
from imprint.templates import make_messages, read_template
from tests.families import CHAT, fields_of, published_folder, tokenizer_json
from tests.hostile_data import Outcome, run_sweep, watched

SHARE: Final = (
    "{% set ns = namespace(x=[], y=[]) %}{% for i in range(40) %}{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}{% endfor %}"
)
"""Two lists of lists that share their parts."""
SHARED: Final = (
    "{{ ns.x == ns.y }}",
    "{{ ns.y in [ns.x] }}",
    "{{ ns.x < ns.y }}",
    "{{ [ns.x,ns.y]|sort|length }}",
    "{{ [ns.x].index(ns.y) }}",
    "{{ ns.x is eq(ns.y) }}",
    "{{ ns.x|string|length }}",
    "{{ '{}'.format(ns.x)|length }}",
    "{{ '%s' % [ns.x] }}",
    "{{ '%(a)s' % {'a': ns.x} }}",
    "{{ [ns.x]|map('string')|list|length }}",
    "{{ [ns.x]|map('upper')|list|length }}",
    "{{ ns.x|upper|length }}",
    "{{ ns.x|trim|length }}",
    "{{ ns.x|capitalize|length }}",
    "{{ ns.x|title|length }}",
    "{{ ns.x|lower|length }}",
    "{{ ns.x|wordcount }}",
    "{{ ns.x|striptags|length }}",
    "{{ ns.x|urlencode|length }}",
    "{{ ns.x|safe|length }}",
    "{{ ns.x|list|length }}",
    "{{ ns.x|int }}",
    "{{ [{'a':ns.x},{'a':ns.y}]|groupby('a')|length }}",
    "{{ [ns.x,ns.y]|max|length }}",
    "{{ raise_exception(ns.x) }}",
    "{{ strftime_now(ns.x) }}",
    "{{ messages|attr(ns.x) }}",
    "{{ messages[ns.x] }}",
    "{{ [ns.x,ns.x]|sum(start=[])|length }}",
)
"""What is done with them."""
BEFORE: Final = (
    "{% set ns = namespace(x='a') %}{% for i in range(40) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x|length }}",
    "{% set ns = namespace(x='a') %}{% for i in range(40) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x|length }}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(40) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x|length }}",
    "{% set ns = namespace(x=[]) %}{% for i in range(100000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}",
    "{% set ns = namespace(x=[]) %}{% for i in range(90000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x|tojson }}",
    "{% set ns = namespace(x=[]) %}{% for i in range(900000) %}{% set ns.x = [ns.x] %}{% endfor %}x",
    "{% set ns = namespace(x=()) %}{% for i in range(40) %}{% set ns.x = (ns.x,ns.x) %}{% endfor %}{{ {ns.x:1}|length }}",
    "{% set ns = namespace(x=()) %}{% for i in range(40) %}{% set ns.x = (ns.x,ns.x) %}{% endfor %}{{ [ns.x]|unique|list|length }}",
    "{% set ns = namespace() %}{% for i in range(40) %}{% set ns.x = namespace(a=ns.x,b=ns.x) %}{% endfor %}{{ ns }}",
    "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}",
    "{% set s = 'ab'*9000000 %}{% for i in range(100000) %}{% if s.startswith(s[:-1]) %}{% endif %}{% endfor %}",
    "{% set s = 'ab'*9000000 %}{% for i in range(100000) %}{% if s.isalpha() %}{% endif %}{% endfor %}",
    "{% set a = range(100000)|list %}{{ ([a]*900)|sum(start=[])|length }}",
    "{{ (['abcdefgh'*100]*20000)|sum(start='') |length}}",
    "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
    "{% macro f(n) %}{% if n > 0 %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{% for i in range(1000000000000) %}{% endfor %}",
    "{{ range(99999)|list|length }}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(900) %}{{ 'a' in range(99999) }}{% endfor %}",
    "{% set r = range(99999) %}{% for i in range(90000) %}{% if 1.5 in r %}a{% endif %}{% endfor %}",
    "{% for i in range(10000) %}{% if range(99999)|max == 1 %}{% endif %}{% endfor %}",
    "{% set s = 'a'*1000000 %}{% set n = 'a'*500000~'b' %}{% for i in range(10000) %}{% if n in s %}{% endif %}{% endfor %}",
    "{% set s = 'ab'*5000000 %}{% for i in range(100000) %}{% set x = s.count('c') %}{% endfor %}",
    "{% set s = 'ab'*5000000 %}{% set t = 'ab'*5000000 %}{% for i in range(1000000) %}{% if s == t %}{% endif %}{% endfor %}",
    "{% set s = 'ab'*5000000 %}{% for i in range(1000) %}{% set x = s|upper %}{% endfor %}",
    "{% set s = 'ab'*5000000 %}{% for i in range(100000) %}{% set x = s[::-1] %}{% endfor %}",
    "{% set s = [1]*5000000 %}{% for i in range(100000) %}{% set x = s[::-1] %}{% endfor %}",
    "{% set ns = namespace(x=[]) %}{% set s = 'a'*5000000 %}{% for i in range(1000) %}{% set ns.x = ns.x + [s[i:]] %}{% endfor %}",
    "{% set s = 'a '*3000000 %}{{ s.split(' ')|length }}",
    "{{ ('a'*8000000)|list|length }}",
    "{{ ('a'.encode() * 4000000000)|length }}",
    "{% set ns = namespace(x='a'.encode()) %}{% for i in range(40) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x|length }}",
    "{{ 'a'.encode().center(4000000000)|length }}",
    "{{ ('%999999999d'.encode() % 1)|length }}",
    "{{ ('\t'*10000).encode().expandtabs(1000000)|length }}",
    "{{ (1).to_bytes(4000000000, 'big')|length }}",
    "{% set ns = namespace(x=[]) %}{% for i in range(100) %}{% set ns.x = ns.x + [(1).to_bytes(100000000, 'big')] %}{% endfor %}",
    "{{ 10**(10**9) }}",
    "{% set ns = namespace(x=2) %}{% for i in range(64) %}{% set ns.x = ns.x * ns.x %}{% endfor %}{{ ns.x }}",
    "{{ ('9'*5000000)|int }}",
    "{{ ('f'*5000000)|int(base=16) }}",
    "{{ (10**4500)|tojson }}",
    "{{ 10**4500 }}",
    "{{ 2.0**1e10 }}",
    "{{ 0**-1 }}",
    "{{ ('nan'|float) }}",
    "{{ '%999999999d' % 1 }}",
    "{{ '%*d' % (999999999, 1) }}",
    "{{ '{:>999999999}'.format(1) }}",
    "{{ '{:>{}}'.format(1, 999999999) }}",
    "{{ '%999999999d'|format(1) }}",
    "{{ '%*d'|format(999999999,1) }}",
    "{{ '{a:>{b}}'.format_map({'a':1,'b':999999999}) }}",
    "{{ '%.999999999f' % 1.0 }}",
    "{{ '{:.999999999f}'.format(1.0) }}",
    "{{ ('{:>9999' ~ '99999}').format(1) }}",
    "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "{{ 1.5|round(999999999) }}",
    "{{ 1|round(-999999999) }}",
    "{{ 15|round(-99999999, 'floor') }}",
    "{{ ('a\n'*100000)|indent(9999) }}",
    "{{ ('a\n'*100000)|indent('x'*100000) |length}}",
    "{{ 'a'|center(9999999999) }}",
    "{{ 'a'.ljust(9999999999) }}",
    "{{ 'a'.zfill(9999999999) }}",
    "{{ [1]|batch(99999999, 'x')|list|length }}",
    "{{ [1]|slice(99999999)|list|length }}",
    "{{ ('a '*1000000)|wordwrap(1)|length }}",
    "{{ ('a'*3000000)|wordwrap(1, true, 'x'*10000)|length }}",
    "{{ [[[[1]]]]|tojson(indent=999999999) }}",
    "{{ ([[[[1]]]]*10000)|tojson(indent=10000)|length }}",
    "{{ ([1]*100000)|tojson(separators=('x'*100000,':'))|length }}",
    "{{ {'a':'x'*10000000}|xmlattr|length }}",
    "{{ ('http://a.b '*100000)|urlize(10,rel='x'*10000)|length }}",
    "{{ ('www.'+ 'a.'*200000)|urlize|length }}",
    "{{ ('a@'*200000)|urlize|length }}",
    "{{ ('('*200000)|urlize|length }}",
    "{{ (('('*20000) ~ 'http://a.com' ~ (')'*20000))|urlize|length }}",
    "{{ ('<'*500000)|striptags|length }}",
    "{{ ('<!--'*500000)|striptags|length }}",
    "{{ ('a '*5000000)|wordcount }}",
    "{{ range(99999)|list|pprint|length }}",
    "{% set ns = namespace(x=[]) %}{% for i in range(90) %}{% set ns.x = [ns.x,1] %}{% endfor %}{{ ns.x|pprint|length }}",
    "{{ [1,2]|random }}",
    "{{ lipsum(n=100000) }}",
    "{% set c = cycler(1,2) %}{% for i in range(1000001) %}{{ c.next() }}{% endfor %}",
    "{% set j = joiner('x'*1000000) %}{% for i in range(10000) %}{{ j() }}{% endfor %}",
    "{{ dict(a=1).items()|list }}",
    "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "{% for i in [1,2] recursive %}{% if loop.depth < 900 %}{{ loop([1,2]) }}{% endif %}{% endfor %}",
    "{% for i in range(99999) %}{% if loop.nextitem is defined %}{% endif %}{% endfor %}",
    "{% for i in range(300) %}{% for j in range(99999) %}{% if loop.length %}{% break %}{% endif %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}{% if loop.changed(i) %}{% endif %}{% endfor %}",
    "{{ range(99999)|map('string')|join|length }}",
    "{{ range(99999)|select('in', range(99999)|list)|list|length }}",
    "{{ range(99999)|reject('in', range(99999)|list)|list|length }}",
    "{% set s='a'*3000000 %}{{ (['b'*3]*99999)|select('in', s)|list|length }}",
    "{{ range(99999)|map('string')|unique|list|length }}",
    "{{ ((range(99999)|list)*20)|sort|length }}",
    "{% for i in range(500) %}{% set x = ((range(99999)|list)*10)|sort(reverse=true) %}{% endfor %}",
    "{{ dict(a=1,b=2)|dictsort }}",
    "{{ messages|groupby('role')|list|length }}",
    "{{ ('a'*10000)|replace('a','b'*10000)|length }}",
    "{{ ('a'*10000).replace('','b'*10000)|length }}",
    "{{ ('a'*10000)|replace('','b'*10000)|length }}",
    "{{ ('x'*10000).join(['a']*100000)|length }}",
    "{{ (['a']*100000)|join('x'*10000)|length }}",
    "{{ ([{'a':'x'*10000}]*100000)|join(attribute='a')|length }}",
    "{{ ('a'*10000).translate({97:'b'*100000})|length }}",
    "{{ ('a'*10000).translate('a'.maketrans({'a':'b'*100000}))|length }}",
    "{{ ('\u00df'*5000000).casefold()|length }}",
    "{{ ('a'*100).partition('a')[0] }}",
    "{{ strftime_now('%Y-%m-%d') }}",
    "{{ strftime_now('%Q%') }}",
    "{{ strftime_now('%0999999999d') }}",
    "{{ strftime_now('%999999d'*100) |length}}",
    "{{ strftime_now('\ud800') }}",
    "{{ strftime_now('\u0000') }}",
    "{{ strftime_now('%c'*1000000)|length }}",
    "{{ strftime_now.__self__ }}",
    "{{ strftime_now() }}",
    "{% generation %}",
    "{% if tools is not none %}{{ tools|tojson }}{% endif %}",
    "{% for d in documents %}{{ d.title }}{% endfor %}",
    "{% if documents is defined and documents %}{{ documents[0] }}{% endif %}",
    "{{ nothing|default('x') }}",
    "{{ nothing }}",
    "{{ nothing.a.b }}",
    "{{ nothing() }}",
    "{{ 'a'|nothing }}",
    "{{ 'a' is nothing }}",
    "{% include '/etc/passwd' %}",
    "{% import 'x' as y %}",
    "{% from 'x' import y %}",
    "{% extends 'x' %}",
    "{% block a %}{% for i in range(10) %}x{% endfor %}{% endblock %}",
    "{% block a %}{{ self.a() }}{% endblock %}",
    "{{ self }}",
    "{% include ['a','b'] ignore missing %}",
    "{% autoescape true %}{{ '<' }}{% endautoescape %}",
    "{% trans %}x{% endtrans %}",
    "{% do messages.append(1) %}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''|attr('__class__') }}",
    "{{ raise_exception.__globals__ }}",
    "{{ messages.__init__ }}",
    "{{ environment }}{{ context }}",
    "{{ cycler.__init__.__globals__.os }}",
    "{{ self._TemplateReference__context }}",
    "{{ (f.gi_frame) }}",
    "{{ ['']|map(attribute='__class__')|list }}",
    "{{ messages.clear() }}",
    "{{ messages[0].update({'content':'x'}) }}",
    "{{ messages.pop() }}",
    "{{ count_step }}{{ environment.count_step() }}",
    "\u0000",
    "\ufeff",
    "\ufdd0",
    "\ufdd1",
    "\ud800",
    "{{ 9**9**9**9 }}",
    "{{ 'a'*10**10 }}",
    "{{ 'a'|center(10**10) }}",
    "{{ 'a'|list * 10**9 }}",
    "{{ 10**1000*10**1000 }}",
    "{{ ([1]*10**9)|length }}",
    "{{ (['a'*10**6]*10**3)|join|length }}",
    "{{ 'a'*10**6 ~ 'a'*10**7 }}",
    "{% for i in range(1000) %}{% for j in range(900) %}{% endfor %}{% endfor %}",
    "{{ {[]:1} }}",
    "{{ 1//0 }}",
    "{{ 'a'+1 }}",
    "{{ messages[99].content }}",
    "{{ messages[0]['nothing'] }}",
    "{{ [].__iter__().__next__() }}",
    "{{ 1e308*10|int }}",
    "{% set x = [] %}{{ x }}",
    "{% for i in [1] %}{{ loop.cycle('a') }}{% endfor %}",
    "{{ messages() }}",
    "{% set messages.x = 1 %}",
    "{% with a=1 %}{{ a }}{% endwith %}",
    "{% raw %}{{ x }}{% endraw %}",
    "# for\n",
    "{% set ns = namespace(**{'a':1}) %}",
    "{{ dict(**messages[0]) }}",
    "{{ dict(*messages) }}",
    "{{ range('a') }}",
    "{% debug %}",
    "{{ debug() }}",
)
"""What stands before a sound template."""
WHOLE: Final = (
    "{% set ns = namespace(x='') %}{% for m in messages %}{% set ns.x = ns.x + m['content'] + '<|end|>' %}{% endfor %}{{ ns.x }}",
    "{{ raise_exception('no') }}",
    "{{ raise_exception() }}",
    "{{ raise_exception('\u001b]0;x\u0007\n'*5000) }}",
    "{{ raise_exception('\u574f\u4e86\ud83d\ude00') }}",
    "{{ raise_exception('\ud800') }}",
    "",
    "   ",
    "hello",
    "{% if add_generation_prompt %}x{% endif %}",
    "{% for m in messages %}",
    "{{ ",
    "{% foo %}",
    "{% for m in messages %}{% if loop.index>2 %}{% break %}{% endif %}<|{{m.role}}|>{{ m.content }}<|end|>{% endfor %}",
    "{{ messages[-1].content }}<|end|>",
    "{{ messages[0].content }}<|end|>",
    "{% for m in messages %}{% if m.role=='user' %}{{ m.content }}<|end|>{% endif %}{% endfor %}",
    "{% for m in messages %}{{ m.content|upper }}<|end|>{% endfor %}",
    "{% for m in messages|reverse %}{{ m.content }}<|end|>{% endfor %}",
    "{% for m in messages %}{{ m.content }}{{ m.content }}<|end|>{% endfor %}",
    "{% for m in messages %}{{ m.content|e }}<|end|>{% endfor %}",
    "{% for m in messages %}{{ m.content|tojson }}<|end|>{% endfor %}",
    "{% for m in messages %}{{ ['a','b']|random }}{{ m.content }}<|end|>{% endfor %}",
)
"""Templates of their own."""
FIELDS: Final = (
    '{"normalizer":{"type":"NFKC"}}',
    '{"normalizer":{"type":"NFC"}}',
    '{"normalizer":{"type":"NFD"}}',
    '{"normalizer":{"type":"NFKD"}}',
    '{"normalizer":{"type":"Lowercase"}}',
    '{"normalizer":{"type":"StripAccents"}}',
    '{"normalizer":{"type":"Nmt"}}',
    '{"normalizer":{"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,"strip_accents":null,"lowercase":true}}',
    '{"normalizer":{"type":"ByteLevel"}}',
    '{"normalizer":{"type":"Strip","strip_left":true,"strip_right":true}}',
    '{"normalizer":{"type":"Replace","pattern":{"String":"a"},"content":"aa"}}',
    '{"normalizer":{"type":"Replace","pattern":{"Regex":"(a|aa)+$"},"content":"x"}}',
    '{"normalizer":{"type":"Replace","pattern":{"Regex":"(?:a?){30}a{30}"},"content":"x"}}',
    '{"normalizer":{"type":"Replace","pattern":{"String":""},"content":"x"}}',
    '{"normalizer":{"type":"Prepend","prepend":"hello"}}',
    '{"normalizer":{"type":"Replace","pattern":{"Regex":"."},"content":""}}',
    '{"normalizer":{"type":"Replace","pattern":{"String":"@"},"content":"<|end|>"}}',
    '{"normalizer":{"type":"Precompiled","precompiled_charsmap":"BAAAAAAAAAA="}}',
    '{"normalizer":{"type":"Foo"}}',
    '{"pre_tokenizer":{"type":"Whitespace"}}',
    '{"pre_tokenizer":{"type":"WhitespaceSplit"}}',
    '{"pre_tokenizer":{"type":"BertPreTokenizer"}}',
    '{"pre_tokenizer":{"type":"Punctuation","behavior":"Isolated"}}',
    '{"pre_tokenizer":{"type":"CharDelimiterSplit","delimiter":"a"}}',
    '{"pre_tokenizer":null}',
    '{"pre_tokenizer":{"type":"FixedLength","length":5}}',
    '{"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true}}',
    '{"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}}',
    '{"truncation":{"direction":"Right","max_length":3,"strategy":"LongestFirst","stride":0}}',
    '{"truncation":{"direction":"Left","max_length":0,"strategy":"LongestFirst","stride":0}}',
    '{"truncation":{"direction":"Left","max_length":3,"strategy":"OnlySecond","stride":9}}',
    '{"post_processor":{"type":"BertProcessing","sep":["</s>",2],"cls":["<s>",1]}}',
    '{"post_processor":{"type":"RobertaProcessing","sep":["</s>",2],"cls":["<s>",1],"trim_offsets":true,"add_prefix_space":false}}',
    '{"post_processor":{"type":"TemplateProcessing","single":[{"Sequence":{"id":"B","type_id":0}}],"pair":[],"special_tokens":{}}}',
    '{"post_processor":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true}}',
    '{"added_tokens":[{"id":1,"content":"<s>"}]}',
    '{"added_tokens":null}',
    '{"added_tokens":{}}',
    '{"decoder":null}',
    '{"decoder":{"type":"CTC","pad_token":"a","word_delimiter_token":"b","cleanup":true}}',
    '{"decoder":{"type":"BPEDecoder","suffix":"</w>"}}',
    '{"decoder":{"type":"Sequence","decoders":[]}}',
    '{"decoder":{"type":"Sequence","decoders":"x"}}',
    '{"decoder":[1]}',
    '{"decoder":{"a":1}}',
    '{"model":null}',
    '{"model":"x"}',
    '{"model":[]}',
    '{"version":"9.9"}',
    '{"foo":1}',
)
"""Fields that replace those of a sound tokenizer.json."""


def chat_templates() -> Iterator[str]:
    """All hostile templates."""
    yield from (SHARE + what + CHAT for what in SHARED)
    yield from (what + CHAT for what in BEFORE)
    yield from WHOLE
    for repeated, times in (("x", 1_000_000), ("{% if 1 %}", 15_000), ("{{ 1 }}", 25_000), ("{% elif 0 %}x", 12_000), ("{#", 90_000)):
        yield repeated * times + CHAT
    for opening, inside, closing, times in (
        ("(", "1", ")", 20_000),
        ("[", "", "]", 20_000),
        ("not ", "1", "", 40_000),
        ("1+", "1", "", 40_000),
    ):
        yield "{{ " + opening * times + inside + closing * times + " }}" + CHAT
    for after, times in (("|string", 20_000), (".b", 50_000), ("~1", 50_000), ("[0]", 50_000)):
        yield "{{ 1" + after * times + " }}" + CHAT
    for one in ("{% if s.count('ab') %}{% endif %}", "{% if s[::-1] %}{% endif %}", "{% set t = s[1:] %}", "{% set t = s|list %}"):
        yield "{% set s = 'a' * 4900000 %}" + one * 3000 + CHAT
    for date in ("%c", "%0250d", "%999d", "%-Z", "\udc80"):
        yield "{{ strftime_now('" + date + "' * 1900000) }}" + CHAT
    yield "".join(f"{{% macro m{number}() %}}{{% endmacro %}}" for number in range(4000)) + CHAT
    yield "".join(f"{{% for a{number} in [1, 2] %}}" for number in range(200)) + "{% endfor %}" * 200 + CHAT


def vocabularies() -> Iterator[bytes]:
    """All hostile vocabularies."""
    sound = tokenizer_json()
    for fields in FIELDS:
        yield json.dumps({**json.loads(sound), **json.loads(fields)}).encode()
    for pattern in (
        "(a+)+$",
        "(a|a)*$",
        "(a?){40}a{40}$",
        "((a{1000}){1000}){1000}",
        "(" * 5000,
        "(?<n>a\\g<n>?b?)*$",
        "a|" * 300_000 + "b",
    ):
        split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        yield json.dumps({**json.loads(sound), "pre_tokenizer": split}).encode()
    for name, ids in (("a", 5), ("a", 4_000_000), ("a", 2**32), ("\0", 500), ("a" * 3_000_000, 500)):
        fields = json.loads(sound)
        fields["model"]["vocab"][name] = ids
        yield json.dumps(fields).encode()
    for contents in (["", " ", "\n", "\0"], [f"<{number}>" for number in range(20_000)], ["x" * 1_000_000], ["<s>", "<s>"]):
        fields = json.loads(sound)
        flags = fields["added_tokens"][0]
        fields["added_tokens"] += [{**flags, "id": 5000 + place, "content": content} for place, content in enumerate(contents)]
        yield json.dumps(fields).encode()
    for cut in range(1, 20):
        yield sound[: len(sound) * cut // 20]
    yield from (
        b"",
        b"null",
        b"[" * 200_000,
        bytes(100_000),
        b"\xff\xfe" + sound,
        b"\xef\xbb\xbf" + sound,
        b"[" + b"[]," * 7_000_000 + b"1]",
    )


def read(folder: Path) -> int:
    """Read a folder and encode a conversation with it."""
    try:
        template = read_template(folder, fields_of(folder))
        assert template is not None
        messages = make_messages("问题", [("a", "b")], "s")
        encode_messages(template, messages, max_source_length=4096)
        template.answer(messages, "回答")
    except UserError as error:
        print(error)  # noqa: T201
        return 2
    return 0


def sweep(folder: Path, tell: Callable[[Outcome], object] = lambda _outcome: None) -> list[Outcome]:
    """Read every folder; `tell` is called with each outcome."""
    sound, outcomes = folder / "sound", []
    published_folder(sound)
    read(sound)
    files = [("tokenizer_config.json", json.dumps({"eos_token": "</s>", "chat_template": text}).encode()) for text in chat_templates()]
    files += [("tokenizer.json", content) for content in vocabularies()]
    for place, (name, content) in enumerate(files):
        case = folder / f"case-{place}"
        shutil.copytree(sound, case)
        (case / name).write_bytes(content)
        outcomes.append(watched(f"{place} {content[:200]!r}", case, read))
        tell(outcomes[-1])
        shutil.rmtree(case)
    return outcomes


if __name__ == "__main__":
    run_sweep(sweep, "folders")
