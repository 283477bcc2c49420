"""Methods by name: ``off``, a drafting method (``adasd``, ``static-8``), or one with ``+acceptance`` or ``+block``.

A draft source may follow after ``@``: ``adasd@suffix``, ``static-5@tiny``, ``adasd+collision@auto``. A longest block
may follow the drafting method after ``/``: ``adaedl/7``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from adasd.errors import InvalidRequest
from adasd.methods.registry import (
    EXACT_TESTS,
    acceptance_method,
    acceptance_methods,
    drafting_method,
    drafting_methods,
    exact_test,
    spelled,
)
from adasd.requests import Mode, SpeculationOptions
from adasd.rounds import TOKEN

STATIC_LENGTHS = (2, 3, 4, 5, 7, 8, 16)
PLAIN = "off"
BY_THE_CLOCK = ("goodput", "on-the-fly", "adasd-goodput")


@dataclass(frozen=True, slots=True)
class Method:
    """A name and the options that it stands for."""

    name: str
    options: SpeculationOptions

    def serves(self, temperature: float) -> bool:
        """Whether it works at this temperature: some rules need rejection sampling, which greedy decoding lacks."""
        acceptance = self.options.acceptance
        if temperature > 0 or acceptance is None:
            return True
        return self.options.mode is not Mode.EXACT or exact_test(acceptance).name == TOKEN


def method(name: str, max_relaxed_fraction: float | None = None) -> Method:
    """The method of that name; raises InvalidRequest, with what is possible, if there is none."""
    if name == PLAIN:
        return Method(name, SpeculationOptions(Mode.OFF))
    rest, at, source = name.partition("@")
    if at:
        if rest == PLAIN or not source:
            raise InvalidRequest(
                f"{name!r} is no method; behind @ stands a draft source, before it a method that drafts",
                "methods",
            )
        of_default = method(rest, max_relaxed_fraction)
        return Method(name, replace(of_default.options, draft=source))
    drafting, plus, acceptance = name.partition("+")
    length = None
    if drafting.startswith("static-"):
        number = drafting.removeprefix("static-")
        if not number.isdecimal() or not 1 <= int(number) <= max(STATIC_LENGTHS):
            raise InvalidRequest(
                f"{name!r} is no static length; write static-1 to static-{max(STATIC_LENGTHS)}", "methods"
            )
        drafting, length = "static", int(number)
    drafting, slash, longest = drafting.partition("/")
    if slash:
        if not longest.isdecimal() or not 1 <= int(longest) <= max(STATIC_LENGTHS):
            raise InvalidRequest(
                f"{name!r} has no longest block; write {drafting}/1 to {drafting}/{max(STATIC_LENGTHS)}",
                "methods",
            )
        length = int(longest)
    method_name = spelled(drafting_method(drafting))
    if not plus:
        return Method(name, SpeculationOptions(Mode.EXACT, method_name, None, length))
    if acceptance in (test.name for test in EXACT_TESTS):
        return Method(name, SpeculationOptions(Mode.EXACT, method_name, acceptance, length))
    relaxed = spelled(acceptance_method(acceptance))
    return Method(name, SpeculationOptions(Mode.ADAPTIVE, method_name, relaxed, length, max_relaxed_fraction))


def all_names() -> list[str]:
    """Plain decoding, the static baselines, every drafting method, every acceptance method with ``adasd``.

    Methods that depend on measured times come last: under sampling, each method continues the random numbers of the
    one before.
    """
    drafting = [one.name for one in drafting_methods() if one.name not in ("static", *BY_THE_CLOCK)]
    return [
        PLAIN,
        *(f"static-{length}" for length in STATIC_LENGTHS),
        *drafting,
        *(f"adasd+{one.name}" for one in acceptance_methods()),
        "static-8+block",
        "adasd+block",
        "static-5+adasd",
        "static-5+collision",
        "adaedl+collision",
        *BY_THE_CLOCK,
    ]


def parse(text: str, max_relaxed_fraction: float | None = None) -> list[Method]:
    """``all``, or names separated by commas. Plain decoding is always included, as the first."""
    names = all_names() if text == "all" else [name.strip() for name in text.split(",") if name.strip()]
    unique = dict.fromkeys([PLAIN, *names])
    return [method(name, max_relaxed_fraction) for name in unique]
