"""Reads the file of cards: passes and prices by card, how well the pair agrees, and the service's own costs.

The format is that of ``examples/cards.yaml``, which explains every field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from adasd.errors import ConfigError
from adasd.evaluate.traces import Trace, TraceFile
from cluster.simulation.costs import Card, Pair, ServiceCosts
from cluster.simulation.curves import PassCurve, curve_of
from cluster.simulation.texts import EvenTexts, Texts, recorded

SECTIONS = ("targets", "drafts", "texts", "service")
CARD = ("passes", "draft_passes", "num_slots", "cost_per_hour", "start_up_s", "source")
TEXTS = ("accepted", "foreseen", "answer_tokens", "prompt_tokens", "traces", "prompt_lens", "source")


@dataclass(frozen=True, slots=True)
class Cards:
    """The whole file."""

    targets: Mapping[str, Card]
    drafts: Mapping[str, Card]
    service: ServiceCosts
    texts: Mapping[str, Any]
    file: Path

    def pair(self, target: str | None, draft: str | None) -> Pair:
        """The pair of these cards; None: the first of its kind; draft ``none``: no draft. ConfigError."""
        its = _named(self.targets, target, "target", self.file)
        other = None if draft == "none" or not self.drafts else _named(self.drafts, draft, "draft", self.file)
        if other is not None:
            draft_ms, target_ms = other.passes.ms(1, 1), its.passes.ms(1, 1)
            if draft_ms >= target_ms:
                raise ConfigError(
                    f"{self.file}: a token takes {draft_ms:g} ms on the draft {other.name} and {target_ms:g} ms on the "
                    f"target {its.name}; a draft must be faster than its target, so the two may be exchanged"
                )
        return Pair(its, other, self.service)

    def answers(self, num_tokens: int | None = None) -> Texts:
        """What answers say; ``num_tokens`` in place of the file's number. ConfigError."""
        given = self.texts
        foreseen = _number(given.get("foreseen", 0.5), f"{self.file}: texts.foreseen", 0.0, 1.0)
        if "traces" in given:
            file = self.file.parent / str(given["traces"])
            try:
                traces = drafted(file)
            except OSError as error:
                raise ConfigError(f"{self.file}: cannot read the traces {file}: {error.strerror}") from error
            lens = given.get("prompt_lens", ())
            if lens and len(lens) != len(traces):
                raise ConfigError(f"{self.file}: {len(lens)} prompt_lens do not fit {len(traces)} traces")
            return recorded(traces, lens, foreseen)
        accepted = _number(given.get("accepted"), f"{self.file}: texts.accepted", 0.0, 1.0)
        length = _number(
            num_tokens or given.get("answer_tokens", 256), f"{self.file}: texts.answer_tokens", 1, 1 << 20
        )
        return EvenTexts(accepted, int(length), foreseen)

    @property
    def prompt_tokens(self) -> int:
        return int(
            _number(self.texts.get("prompt_tokens", 256), f"{self.file}: texts.prompt_tokens", 1, 1 << 20)
        )


def drafted(file: Path) -> list[Trace]:
    """The traces of a draft model: those of the source ``model``, or of the first model in the file. ConfigError."""
    known = TraceFile(file).traces
    models = {
        name: [one for one in each if isinstance(one, Trace)]
        for name, each in known.items()
        if any(isinstance(one, Trace) for one in each)
    }
    if not models:
        raise ConfigError(f"{file} holds no traces of a draft model")
    return models.get("model") or next(iter(models.values()))


def read_cards(file: Path) -> Cards:
    """ConfigError, which names the field that is wrong."""
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is no YAML: {' '.join(str(error).split())}") from error
    sections = _table(found, f"{file}", SECTIONS)
    targets = {
        name: _card(name, each, f"{file}: targets.{name}")
        for name, each in _cards_of(sections, "targets", file)
    }
    drafts = {
        name: _card(name, each, f"{file}: drafts.{name}")
        for name, each in _cards_of(sections, "drafts", file)
    }
    if not targets:
        raise ConfigError(f"{file} names no target; give at least one card under targets")
    names = tuple(one.name for one in fields(ServiceCosts))
    service = _table(sections.get("service") or {}, f"{file}: service", names)
    texts = _table(sections.get("texts") or {"accepted": None}, f"{file}: texts", TEXTS)
    return Cards(targets, drafts, _service(service, f"{file}: service"), texts, file)


def _cards_of(sections: Mapping[str, Any], section: str, file: Path) -> list[tuple[str, Any]]:
    found = sections.get(section) or {}
    if not isinstance(found, dict):
        raise ConfigError(f"{file}: {section} must be a table of cards by name, not {type(found).__name__}")
    return [(str(name), each) for name, each in found.items()]


def _card(name: str, given: Any, where: str) -> Card:
    table = _table(given, where, CARD)
    beside = table.get("draft_passes")
    return Card(
        name,
        _curve(table.get("passes"), f"{where}.passes"),
        int(_number(table.get("num_slots", 32), f"{where}.num_slots", 1, 65536)),
        _number(table.get("cost_per_hour", 0.0), f"{where}.cost_per_hour", 0.0, 1e9),
        _number(table.get("start_up_s", 60.0), f"{where}.start_up_s", 0.0, 1e6),
        None if beside is None else _curve(beside, f"{where}.draft_passes"),
        source=str(table.get("source", "")),
    )


def _curve(given: Any, where: str) -> PassCurve:
    try:
        points = {
            int(number): [(float(tokens), float(ms)) for tokens, ms in line] for number, line in given.items()
        }
    except (AttributeError, TypeError, ValueError):
        raise ConfigError(
            f"{where} must be a table of sessions: [[tokens, ms], ...], for example 1: [[1, 27]]"
        ) from None
    return curve_of(points, where)


def _service(given: Mapping[str, Any], where: str) -> ServiceCosts:
    found: dict[str, Any] = {}
    for one in fields(ServiceCosts):
        if one.name == "source":
            found["source"] = str(given.get("source", ""))
        elif one.name in given:
            value = _number(given[one.name], f"{where}.{one.name}", 0.0, 1e6)
            found[one.name] = int(value) if one.name == "cores" else value
        else:
            assert one.default is not MISSING
    return ServiceCosts(**found)


def _table(given: Any, where: str, known: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise ConfigError(f"{where} must be a table of {', '.join(known)}")
    for name in given:
        if name not in known:
            near = get_close_matches(str(name), known, 1)
            raise ConfigError(
                f"{where}: there is no {name!r}; "
                + (f"did you mean {near[0]!r}?" if near else ", ".join(known))
            )
    return given


def _number(value: Any, where: str, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ConfigError(f"{where} must be a number from {low:g} to {high:g}, not {value!r}")
    return float(value)


def _named(cards: Mapping[str, Card], name: str | None, role: str, file: Path) -> Card:
    if name is None:
        return next(iter(cards.values()))
    if name not in cards:
        raise ConfigError(f"{file} has no {role} {name!r}; it has {', '.join(cards)}")
    return cards[name]
