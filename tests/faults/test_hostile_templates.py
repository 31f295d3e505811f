"""Chat templates of anybody's: an error of ours, soon, and nothing of the system touched."""

from pathlib import Path

import pytest

import loralab as ll
from faults.judging import judged
from loralab.serving.http.codec import Codec
from loralab.tasks.encoding import limits
from loralab.tasks.encoding.limits import refuse_powers
from loralab.tasks.encoding.template import marked_spans, render
from loralab.tasks.example import Conversation, Message
from tiny import TEMPLATE, byte_tokenizer

ASKED = Conversation((Message("user", "hello"), Message("assistant", "hi")))
HOSTILE = {
    "a range of a thousand million": "{% for i in range(10**9) %}x{% endfor %}",
    "a range too large": "{% for i in range(1000000000) %}x{% endfor %}",
    "loops in loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "a macro that calls itself": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "a power": "{{ 10 ** 10 ** 10 }}",
    "a text that doubles": "{% set n = namespace(x='x' * 1000000) %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}"
    "{% endfor %}{{ n.x | length }}",
    "a text too large": "{{ 'x' * 10000000000000 }}",
    "a width too large": "{{ 'x'.ljust(10000000000000) }}",
    "a division by zero": "{{ 1 / 0 }}",
    "a sum of a number and a text": "{{ 1 + 'a' }}",
    "an attribute of nothing": "{{ messages[99].content.x }}",
    "no template": "{% for %}",
    "a filter that is not there": "{{ 'x' | shell }}",
    "the classes of a text": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "the globals of a function": "{{ cycler.__init__.__globals__.os.popen('touch owned').read() }}",
    "the globals of raise_exception": "{{ raise_exception.__globals__['os'].system('touch owned') }}",
    "an attribute by a filter": "{{ ''|attr('__class__')|attr('__mro__') }}",
    "a format that reads attributes": "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    "a file": "{% include '/etc/passwd' %}",
    "an import": "{% import 'os' as os %}{{ os.system('touch owned') }}",
    "messages that change": "{% for m in messages %}{{ messages.append(m) }}{% endfor %}",
}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SECONDS", 0.3)
    monkeypatch.setattr(limits, "BYTES", 32 * 2**20)


@pytest.mark.parametrize("what", HOSTILE)
def test_it_is_refused_and_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.chdir(tmp_path)
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = HOSTILE[what]
    harmless = ("an attribute of nothing", "the classes of a text", "an attribute by a filter")
    for use in (lambda: render(ASKED, tokenizer, prompted=True), lambda: marked_spans(ASKED, tokenizer)):
        answer = judged(use, len(HOSTILE[what]), tmp_path)
        assert isinstance(answer, ll.LoralabError) or (what in harmless and not answer), answer
    answer = judged(lambda: Codec(tokenizer, frozenset()).chat_ids([{"role": "user", "content": "x"}]), 0, tmp_path)
    assert isinstance(answer, ll.LoralabError) or (what in harmless and not answer), answer
    assert not list(tmp_path.iterdir())


def test_what_templates_do_is_no_power() -> None:
    refuse_powers(TEMPLATE + "{{ dict(**m) }} 2 ** 3 {{ '2 ** 3' }} {# 2 ** 3 #} **bold**")
    for each in ("{{ 2 ** 3 }}", "{% set x = (1)**2 %}", "{{ a['b']**c }}"):
        with pytest.raises(ll.DataError, match="power"):
            refuse_powers(each)


def test_a_template_that_is_slow_but_ends_is_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SECONDS", 60.0)
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{% for i in range(30000) %}{{ i % 7 }}{% endfor %}"
    assert len(render(ASKED, tokenizer, prompted=True)) == 30000
