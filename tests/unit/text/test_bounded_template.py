"""A chat template that would take all memory or time is refused; every other one is rendered as transformers does."""

from __future__ import annotations

from pathlib import Path

import pytest
from jinja2.exceptions import SecurityError

from adasd.errors import InvalidRequest
from adasd.text import bounded_template
from adasd.text.bounded_template import bounded
from adasd.text.tokenizer import Tokenizer

ROOT = Path(__file__).parents[3]
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Name three rivers.\n\tThanks."},
    {"role": "assistant", "content": "Rhine, Rhône, Po"},
    {"role": "user", "content": "{{ 7 * 7 }}"},
]
DOUBLING = (
    "{% set ns = namespace(s='xx') %}{% for _ in range(60) %}{% set ns.s = WHAT %}{% endfor %}{{ ns.s }}"
)
HOSTILE = (
    "{{ 'x' * 10**10 }}",
    "{{ 10**10 * 'x' }}",
    "{{ ([0] * 10**9) | length }}",
    "{{ 9 ** (9 ** 9) }}",
    "{{ 'x'.ljust(10**10) }}",
    "{{ 'x'.zfill(10**10) }}",
    "{{ '\\t'.expandtabs(10**10) }}",
    "{{ 'x' | center(10**10) }}",
    "{{ 'x' | center(10000000000) }}",
    "{{ 'x\\nx' | indent(10**10) }}",
    "{{ '%10000000000d' % 1 }}",
    "{{ '%*d' % (10**10, 1) }}",
    "{{ '%s%s' | format('x' * 10**7, 'x' * 10**7) }}",
    "{{ '{:>10000000000}'.format(1) }}",
    "{{ '{:{}}'.format(1, 10**10) }}",
    "{{ ('x' * 10**5).replace('x', 'x' * 10**5) }}",
    "{{ ('x' * 10**5) | replace('x', 'x' * 10**5) }}",
    "{{ ('x' * 10**5).join(['x'] * 10**5) }}",
    "{{ (['x' * 10**5] * 10**5) | join }}",
    "{{ (['x' * 10**5] * 10**5) | map('upper') | list | length }}",
    "{{ ['x' * 10**6] * 10**6 }}",
    "{{ (['x' * 10**6] * 10**6) | string | length }}",
    "{{ [1] | batch(10**10, 0) | list | length }}",
    "{{ {'a': [1]} | tojson(indent=10**9) }}",
    DOUBLING.replace("WHAT", "ns.s + ns.s"),
    DOUBLING.replace("WHAT", "ns.s ~ ns.s"),
    DOUBLING.replace("WHAT", "[ns.s, ns.s]"),
    DOUBLING.replace("WHAT", "'%s%s' % (ns.s, ns.s)"),
    "{% set s %}{% for _ in range(99999) %}{{ 'x' * 10**6 }}{% endfor %}{% endset %}",
    "{% for _ in range(99999) %}{{ 'x' * 10**6 }}{% endfor %}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
)
ENDLESS = (
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% for a in range(99999) %}{% for b in range(99999) if false %}{% endfor %}{% endfor %}",
    "{% set many = range(99999) | list %}{% for a in many %}{% set x = many | sum %}{% endfor %}",
    "{% macro m(n) %}{% if n %}{% set x = m(n - 1) %}{% set y = m(n - 1) %}{% endif %}{% endmacro %}{{ m(60) }}",
)


@pytest.mark.parametrize("template", HOSTILE)
def test_what_grows_without_bound_is_refused_before_it_allocates(tokenizer_with, template: str):
    with pytest.raises(InvalidRequest, match="the model's chat template refuses the messages") as refused:
        tokenizer_with(template).render_chat(MESSAGES)
    assert isinstance(refused.value.__cause__, SecurityError | RecursionError)  # not: no memory is left


@pytest.mark.parametrize("template", ENDLESS)
def test_what_does_not_end_is_refused(tokenizer_with, template: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bounded_template, "MAX_CPU_S", 0.05)
    with pytest.raises(InvalidRequest, match="takes more than"):
        tokenizer_with(template).render_chat(MESSAGES)


FAITHFUL = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m.content | trim }}{{ eos_token }}{% endfor %}",
    "{% for m in messages if m.role != 'system' %}{{ loop.index0 ~ m.role.upper() }}"
    "{{ ',' if not loop.last }}{% endfor %}",
    "{{ messages | tojson(indent=2) }}{{ messages | map(attribute='role') | join(', ') }}",
    "{% macro say(m) %}{{ m.role.ljust(9) }}|{{ '%-8s' % m.role }}{% endmacro %}"
    "{{ say(messages[0]) }}{{ say(messages[1]) }}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + m.conte"
    "nt | length %}{% endfor %}{{ ns.n }}",
    "{% generation %}{{ messages[2].content.replace('R', 'r').split(',') | join('/') }}{% endgeneration %}",
    "{{ '-' * 20 }}{{ 'a\nb' | indent(2, true) }}{{ '{}-{:>4}'.format(1, 'x') }}"
    "{{ [3, 1] | sort | list }}{{ 2 ** 10 }}",
)


@pytest.mark.parametrize("template", FAITHFUL)
def test_everything_else_is_as_before(template: str):
    theirs = bounded_template._unbounded(template)
    given = {"messages": MESSAGES, "eos_token": "</s>"}
    assert bounded(template).render(**given) == theirs.render(**given)


@pytest.fixture(scope="module")
def tokenizer_with():
    """A tokenizer whose model brought this template."""

    tokenizer = Tokenizer.load(str(ROOT / "models" / "demo" / "target"))

    def with_template(template: str) -> Tokenizer:
        tokenizer.inner.chat_template = template
        return tokenizer

    return with_template
