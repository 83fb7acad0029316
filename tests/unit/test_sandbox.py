"""Templates from downloaded files: what they may not do, and how they are stopped."""

from __future__ import annotations

import itertools
import sys
import time
from datetime import datetime

import pytest

from metasd_local.errors import TemplateError
from metasd_local.templates.sandbox import MAX_OUTPUT_CHARACTERS, MAX_SOURCE_CHARACTERS, Sandbox


def render(source: str, **variables: object) -> str:
    """Return a template's output for one message."""
    messages = [{"role": "user", "content": "Hi"}]
    return Sandbox(source).render({"messages": messages, "x": "x", **variables})


LONG_LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
BRANCHING = (
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}"
)
DOUBLING = (
    "{% set ns = namespace(v=START) %}{% for i in range(60) %}{% set ns.v = MORE %}{% endfor %}"
)

BOMBS = {
    "nested loops": LONG_LOOP,
    "nested loops in a macro": "{% macro m() %}" + LONG_LOOP + "{% endmacro %}{{ m() }}",
    "nested loops in a block of text": "{% set t %}" + LONG_LOOP + "{% endset %}",
    "loop over filtered range": "{% for a in range(99999) if a %}" + LONG_LOOP + "{% endfor %}",
    "recursive loop": "{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "endless recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "long text": "{{ 'a' * 10**10 }}",
    "long text the other way": "{{ 1000000000 * 'a' }}",
    "long list": "{{ [1] * 1000000000 }}",
    "long range": "{{ range(10**9) | list }}",
    "endless range": "{{ range(10**30, 0, -1) | list }}",
    "power": "{{ 9**9**9 }}",
    "power of a float": "{{ 9.5**999 }}",
    "multiplied numbers": DOUBLING.replace("START", "3").replace("MORE", "ns.v * ns.v"),
    "doubled text": DOUBLING.replace("START", "'ab'").replace("MORE", "ns.v + ns.v"),
    "doubled text by ~": DOUBLING.replace("START", "'ab'").replace("MORE", "ns.v ~ ns.v"),
    "doubled text by join": DOUBLING.replace("START", "'a'").replace("MORE", "ns.v.join('abc')"),
    "doubled text by join filter": DOUBLING.replace("START", "'a'").replace(
        "MORE", "[ns.v, ns.v] | join"
    ),
    "doubled text by replace": DOUBLING.replace("START", "'aa'").replace(
        "MORE", "ns.v.replace('a', ns.v)"
    ),
    "doubled text by replace filter": DOUBLING.replace("START", "'aa'").replace(
        "MORE", "ns.v | replace('', ns.v)"
    ),
    "doubled text by set block": (
        "{% set ns = namespace(v='aa') %}{% for i in range(60) %}"
        "{% set t %}{{ ns.v }}{{ ns.v }}{% endset %}{% set ns.v = t %}{% endfor %}"
    ),
    "doubled list": DOUBLING.replace("START", "[1]").replace("MORE", "ns.v + ns.v"),
    "nested list": DOUBLING.replace("START", "[1]").replace("MORE", "[ns.v, ns.v]") + "{{ ns.v }}",
    "nested dict": DOUBLING.replace("START", "1").replace("MORE", "{'a': ns.v, 'b': ns.v}"),
    "nested tuple": DOUBLING.replace("START", "1").replace("MORE", "(ns.v, ns.v)"),
    "text in a loop": "{% for a in range(99999) %}" + "text" * 9999 + "{% endfor %}",
    "text in a loop in a macro": (
        "{% macro m() %}{% for a in range(99999) %}" + "text" * 9999 + "{% endfor %}"
        "{% endmacro %}{% set t = m() %}"
    ),
    "text in a loop in a block of text": (
        "{% set t %}{% for a in range(1000) %}" + "text" * 25000 + "{% endfor %}{% endset %}"
    ),
    "long concatenation": "{% set t = 'a' * 3000000 ~ 'a' * 3000000 %}",
    "list of long texts": "{% set t = ['a' * 3000000, 'a' * 3000000] %}",
    "dict of long texts": "{% set t = {'a': 'a' * 3000000, 'b': 'a' * 3000000} %}",
    "many slices": (
        "{% set t = 'a' * 4000000 %}{% for i in range(30) %}{% set u = t[1:] %}{% endfor %}"
    ),
    "wide indent": "{{ 'a\nb' | indent(10000000000, true) }}",
    "wide json": "{{ [1, 2] | tojson(indent=10000000000) }}",
    "wide format": "{{ '%10000000000d' % 1 }}",
    "wide format method": "{{ '{:3000000}'.format(1) }}",
    "wide date": "{{ strftime_now('%1000000000d') }}",
    "wide filter": "{{ 'a' | center(10000000000) }}",
    "wide method": "{{ 'a'.center(10000000000) }}",
    "wide rounding": "{{ 1.5 | round(1000000000, 'ceil') }}",
    "many slices by filter": "{{ 'a' | slice(1000000000) | list }}",
    "generated text": "{{ lipsum(n=1000000) }}",
    "deep source": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "deep operators": "{{ " + "-" * 60000 + "1 }}",
    "long source": "{{ x }}" * MAX_SOURCE_CHARACTERS,
}


@pytest.mark.parametrize("source", BOMBS.values(), ids=BOMBS)
def test_bombs_are_refused(source: str) -> None:
    """A template that would take too long or too much ends in a TemplateError, soon."""
    with pytest.raises(TemplateError, match="chat template"):
        render(source)


@pytest.mark.full
def test_a_second_is_a_second_of_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock that nobody injected ends what no other limit does."""
    monkeypatch.setattr("metasd_local.templates.meter.MAX_WORK", 2**60)  # however fast it is
    began_s = time.thread_time()
    with pytest.raises(TemplateError, match="ran for more than 1 s"):
        render(BRANCHING)
    assert time.thread_time() - began_s >= 1.0


ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''['__class__']['__mro__'] }}",
    "{{ x | attr('__class__') }}",
    "{{ messages.__init__.__globals__ }}",
    "{{ lipsum.__globals__['os'].popen('id').read() }}",
    "{{ cycler.__init__.__globals__.os }}",
    "{{ joiner.__init__.__globals__.os }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ raise_exception.__globals__ }}",
    "{{ strftime_now.func.__globals__ }}",
    "{{ strftime_now.keywords }}",
    "{{ range.__self__ }}",
    "{{ self.__init__.__globals__ }}",
    "{{ self._TemplateReference__context.environment }}",
    "{% macro m() %}{% endmacro %}{{ m.__init__.__globals__ }}",
    "{% macro m() %}{% endmacro %}{{ m._func.__globals__ }}",
    "{% for i in [1] %}{{ loop.__init__.__globals__ }}{% endfor %}",
    "{{ '{0.__class__}'.format(x) }}",
    "{{ '{0.__class__.__mro__}'.format(x) }}",
    "{{ '{x.__class__}'.format_map({'x': x}) }}",
    "{{ ('{0.__class__}' | safe).format(x) }}",
    "{{ '%s' | format(x) }}",
    "{{ ['{0.__class__}'] | map('format', x) | list }}",
    "{{ [x] | map(attribute='__class__') | list }}",
    "{{ [x] | map('attr', '__class__') | list }}",
    "{{ [x] | sort(attribute='__class__.__mro__') }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update({'role': 'system'}) }}",
    "{{ messages[0].pop('role') }}",
    "{{ [namespace(a=1)] }}",
    "{{ x.encode().decode }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os }}",
    "{% extends '/etc/passwd' %}",
]


@pytest.mark.parametrize("source", ESCAPES)
def test_escapes_end_in_an_error_or_in_nothing(source: str) -> None:
    """No way to Python's objects, to files or to changing the messages prints anything."""
    messages = [{"role": "user", "content": "Hi"}]
    try:
        output = Sandbox(source).render({"messages": messages, "x": "x"})
    except TemplateError:
        output = ""
    assert output in ("", "[Undefined]")
    assert messages == [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(9999) %}{% endfor %}",
        "{% if x == 'x' %}{% endif %}" * 1000,
        "{{ x.strip() }}" * 1000,
        "{% set y = x | trim %}" * 1000,
        "{% set y = 1 + 1 %}" * 1000,
        "x{{ x }}" * 1000,
        BRANCHING,
    ],
)
def test_the_clock_stops_a_template(source: str) -> None:
    """Whatever is done again and again, time is looked at while it is done."""
    seconds = itertools.count(0.0, 0.1)
    sandbox = Sandbox(source, clock=lambda: next(seconds))
    with pytest.raises(TemplateError, match="ran for more than 1 s"):
        sandbox.render({"x": "x"})


def test_limits_hold_for_each_rendering_alone() -> None:
    """Renderings do not add up, and a template works again after one that failed."""
    sandbox = Sandbox("{{ 'a' * n }}")
    for _ in range(30):
        assert len(sandbox.render({"n": 4_000_000})) == 4_000_000
    with pytest.raises(TemplateError, match="line 1: it repeats a value too often"):
        sandbox.render({"n": 10**12})
    assert sandbox.render({"n": 3}) == "aaa"


def test_output_is_limited() -> None:
    """One character more than allowed is refused."""
    with pytest.raises(TemplateError, match="output exceeds"):
        render("{{ 'a' * n }}" + 1001 * "b", n=MAX_OUTPUT_CHARACTERS - 1000)


def test_nothing_is_traced_or_left_behind() -> None:
    """Stopping a template does not touch the thread's tracing or recursion limit."""
    before = sys.gettrace(), sys.getprofile(), sys.getrecursionlimit()
    with pytest.raises(TemplateError):
        render(BOMBS["endless recursion"])
    assert (sys.gettrace(), sys.getprofile(), sys.getrecursionlimit()) == before


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ 'a' ~ 1 ~ none ~ missing ~ ['b'] }}", "a1None['b']"),
        ("{{ 7 // 2 }} {{ 7 % 4 }} {{ 2 ** 3 }} {{ 3 * 'ab' }} {{ -1 + 2.5 }}", "3 3 8 ababab 1.5"),
        ("{% for k, v in {'a': 1}.items() %}{{ k }}{{ v }}{% endfor %}", "a1"),
        ("{% for i in [1, 2, 3] %}{{ i }}{% if not loop.last %},{% endif %}{% endfor %}", "1,2,3"),
        ("{% for i in 'ab' %}{{ loop.length }}{{ loop.revindex }}{% endfor %}", "2221"),
        ("{% for i in none_given %}x{% else %}empty{% endfor %}", "empty"),
        ("{% for i in [1, 2, 3] if i != 2 %}{{ i }}{% endfor %}", "13"),
        ("{% for i in [1, 2, 3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "1"),
        ("{% set a, b = 1, 2 %}{{ a + b }}", "3"),
        ("{{ 'abc'[::-1] }}{{ 'abc'[1:] }}{{ [1, 2][:1] }}", "cbabc[1]"),
        ("{{ ['x', 'y'] | map('upper') | join('-') }}{{ ', '.join('ab') }}", "X-Ya, b"),
        ("{{ 'a-b'.split('-')[-1] }}{{ ' a '.strip() }}{{ 'aa'.replace('a', 'b', 1) }}", "baba"),
        ("{{ {'k': ['é', '<', 1.5, true, none]} | tojson }}", '{"k": ["é", "<", 1.5, true, null]}'),
        ("{% macro m(a, b=2) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) | trim }}", "12"),
        ("{% macro m() %}<{{ caller() }}>{% endmacro %}{% call m() %}x{% endcall %}", "<x>"),
        ("{% if 'i' in messages[0].content and messages[0].get('n') is none %}y{% endif %}", "y"),
        ("{% generation %}a{{ x }}{% endgeneration %}", "ax"),
        ("a\n  {% if true %}\n  b\n  {% endif %}\nc\n", "a\n  b\nc"),
    ],
)
def test_ordinary_templates_work(source: str, expected: str) -> None:
    """The meter changes nothing about what a template prints."""
    assert render(source) == expected


def test_the_date_is_the_clock_given() -> None:
    """strftime_now reads the injected clock."""
    sandbox = Sandbox("{{ strftime_now('%d %b %Y') }}", now=lambda: datetime(2025, 3, 4))
    assert sandbox.render({}) == "04 Mar 2025"


@pytest.mark.parametrize(
    ("source", "where"),
    [
        ("a\n{% if %}", "line 2"),
        ("a\n\n{{ 1 // 0 }}", "line 3"),
        ("{{ x | unheard_of }}", "unheard_of"),
        ("{{ y.z }}", "'y' is undefined"),
    ],
)
def test_errors_say_where(source: str, where: str) -> None:
    """A broken template is reported with its line, in one sentence for the user."""
    with pytest.raises(TemplateError, match=where) as caught:
        render(source)
    assert "\n" not in str(caught.value)
