"""Registry of methods by name: this package's, installed packages' (``adasd.methods``), and those of ``register_*``.

A method is chosen by its name, followed by parameters that differ from the defaults, separated by colons:
``adaedl``, ``adaedl:gamma=0.3``, ``on-the-fly:variant=fsm:initial=3``. An entry point of group ``adasd.methods`` names
a module that registers its methods when it is imported, so that every process of a deployment has them.
"""

from __future__ import annotations

import difflib
import math
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from enum import StrEnum
from functools import cache, lru_cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, TypeVar, get_type_hints

from adasd.errors import InvalidRequest
from adasd.methods.policy import AcceptanceMethod, DraftingMethod
from adasd.requests import Mode
from adasd.rounds import BLOCK, TOKEN, AcceptanceRule, Params

ENTRY_POINTS = "adasd.methods"
PACKAGES = ("adasd.methods.drafting", "adasd.methods.acceptance")

ALIASES: Mapping[str, Mapping[str, str]] = {
    "drafting": {
        "adasd-discard": "adasd:drops_last=true",
        "confidence-dynamic": "confidence:schedule=dynamic",
        "heuristic": "assisted:schedule=heuristic",
        "on-the-fly-cached": "on-the-fly:variant=cached",
        "on-the-fly-fsm": "on-the-fly:variant=fsm",
    },
    "acceptance": {
        "posterior": "adasd",
        "posterior-stochastic": "adasd:decision=stochastic",
        "threshold": "adasd-v1",
    },
}
"""Names of earlier versions, which configurations and clients may still use."""

DEFAULT_DRAFTING = {Mode.OFF: "calibrated", Mode.EXACT: "calibrated", Mode.ADAPTIVE: "adasd"}
"""The drafting method if neither the request nor the deployment names one."""

Method = DraftingMethod[Any] | AcceptanceMethod[Any]
Drafting = TypeVar("Drafting", bound=type[DraftingMethod[Any]])
Acceptance = TypeVar("Acceptance", bound=type[AcceptanceMethod[Any]])

_drafting: dict[str, type[DraftingMethod[Any]]] = {}
_acceptance: dict[str, type[AcceptanceMethod[Any]]] = {}


@dataclass(frozen=True, slots=True)
class ExactTest:
    """An exact test of mode exact; all of them keep the target's distribution."""

    name: str
    summary: str
    source: str


EXACT_TESTS: tuple[ExactTest, ...] = (
    ExactTest(
        TOKEN,
        "token by token: greedy match, shared noise under a seed, else rejection sampling",
        "Leviathan et al., arXiv:2211.17192; Daliri et al., arXiv:2408.07978",
    ),
    ExactTest(
        BLOCK,
        "the block as a whole, never fewer tokens; sampling without a seed only",
        "block verification, Sun et al., arXiv:2403.10444",
    ),
)


def register_drafting(method: Drafting) -> Drafting:
    """Class decorator that registers a method under its name."""
    _drafting[method.name] = method
    drafting_method.cache_clear()
    return method


def register_acceptance(method: Acceptance) -> Acceptance:
    """As ``register_drafting``."""
    _acceptance[method.name] = method
    acceptance_method.cache_clear()
    return method


@cache
def load() -> None:
    """Import this package's methods and those of installed packages, once."""
    for package in PACKAGES:
        for module in pkgutil.iter_modules(import_module(package).__path__):
            import_module(f"{package}.{module.name}")
    for entry in entry_points(group=ENTRY_POINTS):
        entry.load()


def drafting_methods() -> tuple[DraftingMethod[Any], ...]:
    """All drafting methods with default parameters, sorted by name."""
    load()
    return tuple(_drafting[name]() for name in sorted(_drafting))


def acceptance_methods() -> tuple[AcceptanceMethod[Any], ...]:
    """As ``drafting_methods``."""
    load()
    return tuple(_acceptance[name]() for name in sorted(_acceptance))


@lru_cache(maxsize=256)
def drafting_method(text: str) -> DraftingMethod[Any]:
    """The method of that name and parameters; InvalidRequest, which lists the known names, if there is none."""
    load()
    return _made(text, _drafting, "drafting")


@lru_cache(maxsize=256)
def acceptance_method(text: str) -> AcceptanceMethod[Any]:
    """As ``drafting_method``."""
    load()
    return _made(text, _acceptance, "acceptance")


def exact_test(name: str) -> ExactTest:
    """The exact test of that name; InvalidRequest, which lists the known names, if there is none."""
    by_name = {test.name: test for test in EXACT_TESTS}
    if name not in by_name:
        raise _unknown(name, by_name, "exact acceptance")
    return by_name[name]


def spelled(method: Method) -> str:
    """The shortest text that selects the method: its name and the parameters that differ from the defaults."""
    values = [
        (field.name, getattr(method, field.name), _default(field)) for field in parameters(type(method))
    ]
    return ":".join(
        [method.name, *(f"{name}={_text(value)}" for name, value, usual in values if value != usual)]
    )


def parameters(method: type[Method]) -> tuple[Field[Any], ...]:
    """A method's parameters, as fields of its dataclass."""
    return fields(method)  # type: ignore[arg-type]


def needs_distances(rule: AcceptanceRule) -> bool:
    """Whether the rule needs d_JS, and with it the draft's distributions."""
    return rule.want_distances or (not rule.is_exact and acceptance_method(rule.name).needs_distances)


def check_params(method: AcceptanceMethod[Any], params: Params) -> None:
    """Raise InvalidRequest unless ``params`` are exactly the method's ``rule_params``, and in range."""
    wanted = method.rule_params
    if set(params) != set(wanted):
        raise InvalidRequest(
            f"acceptance method {method.name!r} takes the parameters {sorted(wanted)}, not {sorted(params)}",
            "rule",
        )
    for name, (low, high, length) in wanted.items():
        value = params[name]
        numbers = value if isinstance(value, tuple) else (value,)
        if isinstance(value, tuple) != (length is not None) or len(numbers) != (length or 1):
            raise InvalidRequest(
                f"{name} of acceptance method {method.name!r} has {len(numbers)} entries; it takes {length or 1}",
                "rule",
            )
        if not all(low <= number <= high for number in numbers):
            raise InvalidRequest(
                f"{name} of acceptance method {method.name!r} is not within {low:g} to {high:g}: {numbers[:4]}",
                "rule",
            )


Any_ = TypeVar("Any_", DraftingMethod[Any], AcceptanceMethod[Any])


def _made(text: str, known: Mapping[str, type[Any_]], kind: str) -> Any_:
    name, *pairs = text.split(":")
    name, *before = ALIASES[kind].get(name, name).split(":")
    if name not in known:
        raise _unknown(name, known, kind)
    wanted = {field.name: field for field in parameters(known[name])}
    types, values = get_type_hints(known[name]), {}
    for pair in (*before, *pairs):
        parameter, _, value = pair.partition("=")
        if parameter not in wanted:
            takes = f"it takes {', '.join(wanted)}" if wanted else "it takes none"
            raise InvalidRequest(
                f"{kind} method {name!r} has no parameter {parameter!r}; {takes}", f"speculation.{kind}"
            )
        values[parameter] = _parsed(value, types[parameter], wanted[parameter], f"speculation.{kind}")
    return known[name](**values)


def _parsed(text: str, kind: type, field: Field[Any], where: str) -> Any:
    """A parameter's value; InvalidRequest if it has the wrong type or is out of range."""
    choices: Sequence[str] = field.metadata.get("choices", ())
    if issubclass(kind, StrEnum):
        choices = [str(member) for member in kind]
    elif kind is bool:
        choices = ("false", "true")
    if choices and text not in choices:
        raise InvalidRequest(f"{field.name} is {text!r}; it is one of {', '.join(choices)}", where)
    if kind is bool:
        return text == "true"
    try:
        value = kind(text)
    except ValueError:
        raise InvalidRequest(f"{field.name} is {text!r}, which is no {kind.__name__}", where) from None
    low, high = field.metadata.get("low"), field.metadata.get("high")
    low, high = -math.inf if low is None else low, math.inf if high is None else high
    if isinstance(value, int | float) and not low <= value <= high:
        raise InvalidRequest(f"{field.name} is {text}; it lies within {low:g} to {high:g}", where)
    return value


def _default(field: Field[Any]) -> Any:
    return field.default if field.default is not MISSING else None


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _unknown(name: str, known: Mapping[str, object], kind: str) -> InvalidRequest:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return InvalidRequest(
        f"there is no {kind} method {name!r}{hint}; known: {', '.join(sorted(known))}",
        f"speculation.{kind.split()[-1]}",
    )
