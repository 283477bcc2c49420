"""Methods by name: ``off``, a drafting policy (``adasd``, ``static-8``), or one with ``+acceptance`` or ``+block``.

Behind each may stand where blocks come from: ``adasd@suffix``, ``static-5@tiny``, ``adasd+collision@auto``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from adasd.errors import InvalidRequest
from adasd.methods.registry import (
    ACCEPTANCE,
    DRAFTING,
    EXACT_RULES,
    acceptance_policy,
    drafting_policy,
    exact_rule,
)
from adasd.requests import Mode, SpeculationOptions

STATIC_LENGTHS = (2, 3, 4, 5, 7, 8, 16)
PLAIN = "off"
TOKEN = "token"  # the exact rule that serves every kind of sampling
BY_THE_CLOCK = ("goodput", "on-the-fly", "adasd-goodput")


@dataclass(frozen=True, slots=True)
class Method:
    """A name and the options that it stands for."""

    name: str
    options: SpeculationOptions

    @property
    def static_len(self) -> int | None:
        """Tokens per block of an exact static method, the baselines; None for any other."""
        options = self.options
        plain = options.draft is None and options.acceptance is None
        fixed = options.mode is Mode.EXACT and options.drafting == "static" and plain
        return self.options.max_draft_tokens if fixed else None

    def serves(self, temperature: float) -> bool:
        """Whether it can be had there: some rules act on rejection sampling, which greedy decoding lacks."""
        acceptance = self.options.acceptance
        if temperature > 0 or acceptance is None:
            return True
        if self.options.mode is Mode.EXACT:
            return exact_rule(acceptance).name == TOKEN
        return not acceptance_policy(acceptance).only_sampled


def method(name: str, max_relaxed_fraction: float | None = None) -> Method:
    """The method of that name; InvalidRequest with what is possible if there is none."""
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
    policy = drafting_policy(drafting).name
    if not plus:
        return Method(name, SpeculationOptions(Mode.EXACT, policy, None, length))
    if acceptance in (rule.name for rule in EXACT_RULES):
        return Method(name, SpeculationOptions(Mode.EXACT, policy, acceptance, length))
    relaxed = acceptance_policy(acceptance).name
    return Method(name, SpeculationOptions(Mode.ADAPTIVE, policy, relaxed, length, max_relaxed_fraction))


def all_names() -> list[str]:
    """Plain decoding, the static baselines, every drafting policy, every acceptance rule under ``adasd``.

    What follows the clock comes last: under sampling each method draws on from the one before.
    """
    drafting = [policy.name for policy in DRAFTING if policy.name not in ("static", *BY_THE_CLOCK)]
    return [
        PLAIN,
        *(f"static-{length}" for length in STATIC_LENGTHS),
        *drafting,
        *(f"adasd+{policy.name}" for policy in ACCEPTANCE),
        "static-8+block",
        "adasd+block",
        "static-5+posterior",
        "static-5+collision",
        "adaedl+collision",
        *BY_THE_CLOCK,
    ]


def parse(text: str, max_relaxed_fraction: float | None = None) -> list[Method]:
    """``all`` or names with commas between; plain decoding is always among them, first."""
    names = all_names() if text == "all" else [name.strip() for name in text.split(",") if name.strip()]
    unique = dict.fromkeys([PLAIN, *names])
    return [method(name, max_relaxed_fraction) for name in unique]
