"""Traces: the target's text, and what a draft would have proposed at each of its positions.

Exact speculative decoding never changes the distribution of the text, so one text per prompt serves every exact
method. A trace holds, for each token of the text, whether the draft's proposal would have been accepted there, and
the signals that a stop rule sees. ``adasd.evaluate.replay`` runs methods over traces in seconds;
``adasd.evaluate.collect`` makes them.

At temperature 0 a proposal is accepted iff it is the target's token. At higher temperatures, rejection sampling
accepts the target's token x with probability min(1, q(x) / p(x)), given that x was written. One uniform number per
position decides for all methods (common random numbers). A method pays for tokens drafted after a rejected one, so
the draft's next ``BLOCK_LEN`` tokens are traced there. It also drafts past the end of a text, which only the verdict
reveals, so the target's text goes on for as many tokens after its end.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adasd.errors import ConfigError

BLOCK_LEN = 16
"""Tokens of the longest block that can be replayed."""

Signal = tuple[float, float]
"""Entropy (nats) and largest probability of the draft's distribution, at temperature 1."""


@dataclass(frozen=True, slots=True)
class Trace:
    """One text of the target, position by position, with the proposals of a draft model."""

    group: str  # task, family or file of the prompt
    temperature: float
    num_tokens: int  # of the text; ``accepted`` and ``signals`` go on after its end
    max_tokens: int  # limit of the text's length
    accepted: tuple[bool, ...]  # per position: whether the draft's proposal is accepted
    signals: tuple[Signal, ...]  # per position: the draft's, given the target's text
    off_path: Mapping[int, tuple[Signal, ...]]  # by rejected position: of the tokens drafted after it

    def proposals(self, position: int) -> Iterator[tuple[Signal, bool]]:
        """The signals of the tokens drafted from here on, and whether each is accepted."""
        stands = True
        while stands:
            stands = self.accepted[position]
            yield self.signals[position], stands
            position += 1
        yield from ((signal, False) for signal in self._after(position - 1))

    def _after(self, rejected: int) -> tuple[Signal, ...]:
        """What is drafted after a rejected position; of the nearest one that was followed, if it was not."""
        if rejected in self.off_path:
            return self.off_path[rejected]
        return self.off_path[min(self.off_path, key=lambda at: abs(at - rejected))]


@dataclass(frozen=True, slots=True)
class LookupTrace:
    """One text of the target with the guesses of a look-up, which depend on where the block begins."""

    group: str
    temperature: float
    num_tokens: int
    max_tokens: int
    guesses: tuple[tuple[Signal, ...], ...]  # per position: of the tokens guessed from here on; may be none
    num_accepted: tuple[int, ...]  # per position: how many of them are accepted

    def proposals(self, position: int) -> Iterator[tuple[Signal, bool]]:
        """As ``Trace.proposals``; ends where the look-up knows no more."""
        num = self.num_accepted[position]
        return ((signal, at < num) for at, signal in enumerate(self.guesses[position]))


AnyTrace = Trace | LookupTrace

Traces = dict[str, list[AnyTrace]]
"""Traces of the same texts by draft source."""


class TraceFile:
    """Traces in a file, a line of JSON each, written batch by batch, so that an interrupted run can go on.

    The first line describes the run. Raises ConfigError if the file is of another run or a line cannot be read.
    """

    def __init__(self, path: Path, about: Mapping[str, Any] | None = None) -> None:
        """``about`` None: read a file of any run."""
        self.path, self.traces, self.num_batches = path, Traces(), 0
        if about is not None and not path.exists():
            path.write_text(json.dumps(about) + "\n", encoding="utf-8")
        written = path.read_text(encoding="utf-8")
        whole = written[: written.rfind("\n") + 1]  # the last line may have been cut off
        if whole != written:
            path.write_text(whole, encoding="utf-8")
        first, *rest = whole.splitlines() or [""]
        self.about = self._line(1, first)
        if not isinstance(self.about, dict) or (
            about is not None and self.about != json.loads(json.dumps(about))
        ):
            raise ConfigError(
                f"{path} holds the traces of another run; name another file, or repeat that run"
            )
        for number, line in enumerate(rest, 2):
            self._add(self._read(number, line))

    def append(self, batch: Traces) -> None:
        """Write the traces of some texts, at once. They are kept as written, with four digits of each signal."""
        record = {name: [_written(trace) for trace in traces] for name, traces in batch.items()}
        line = json.dumps(record, separators=(",", ":"))
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        self._add(self._read(self.num_batches + 2, line))

    def _add(self, batch: Traces) -> None:
        self.num_batches += 1
        for name, traces in batch.items():
            self.traces.setdefault(name, []).extend(traces)

    def _line(self, number: int, line: str) -> Any:
        try:
            return json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{self.path}, line {number}: this is no trace ({error})") from error

    def _read(self, number: int, line: str) -> Traces:
        record = self._line(number, line)
        try:
            return {name: [_known(trace) for trace in traces] for name, traces in record.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{self.path}, line {number}: this is no trace ({error!r})") from error


def _written(trace: AnyTrace) -> dict[str, Any]:
    """As JSON, with four digits of each signal."""

    def short(signals: Sequence[Signal]) -> list[list[float]]:
        return [[float(f"{entropy:.4g}"), float(f"{top:.4g}")] for entropy, top in signals]

    fields = asdict(trace)
    if isinstance(trace, Trace):
        off_path = {at: short(signals) for at, signals in trace.off_path.items()}
        return {**fields, "signals": short(trace.signals), "off_path": off_path}
    return {**fields, "guesses": [short(signals) for signals in trace.guesses]}


def _known(record: Mapping[str, Any]) -> AnyTrace:
    def signals(pairs: Sequence[Sequence[float]]) -> tuple[Signal, ...]:
        return tuple((float(entropy), float(top)) for entropy, top in pairs)

    common = (str(record["group"]), float(record["temperature"]), int(record["num_tokens"]))
    if "guesses" in record:
        guesses = tuple(signals(each) for each in record["guesses"])
        return LookupTrace(
            *common, int(record["max_tokens"]), guesses, tuple(map(int, record["num_accepted"]))
        )
    off_path = {int(at): signals(each) for at, each in record["off_path"].items()}
    accepted = tuple(map(bool, record["accepted"]))
    return Trace(*common, int(record["max_tokens"]), accepted, signals(record["signals"]), off_path)
