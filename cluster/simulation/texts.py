"""What a simulated answer says: its length, and at each position whether the draft's proposal would be accepted.

Answers come from traces of a real pair (``adasd replay --traces FILE`` collects them) or from one chance of
acceptance. Tokens are three symbols: the target's own token is always ``RIGHT``, a proposal that it rejects is
``WRONG``, and the answer ends with ``END``. So the protocol, which compares tokens, sees what it would see in
production: which tokens of a block stand, and which assumption about a verdict comes true.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from adasd.errors import ConfigError
from adasd.evaluate.traces import BLOCK_LEN, Signal, Trace

END, RIGHT, WRONG, OTHER = 0, 1, 2, 3
"""Token ids; ``OTHER`` is a second choice that is as wrong as the first."""
VOCAB_SIZE = 4


@dataclass(frozen=True, slots=True)
class AnswerText:
    """One answer; positions are counted from the answer's first token."""

    prompt_len: int
    trace: Trace
    second_is_right: tuple[bool, ...]  # per position: whether the draft's second choice is the target's token

    @property
    def num_tokens(self) -> int:
        return self.trace.num_tokens

    def cut(self, num_tokens: int) -> AnswerText:
        """The same answer, ended after so many tokens."""
        return replace(self, trace=replace(self.trace, num_tokens=min(num_tokens, self.num_tokens)))

    def target_token(self, at: int) -> int:
        """The target's token at a position of the answer."""
        return END if at == self.trace.num_tokens - 1 else RIGHT

    def proposal(self, at: int, num_wrong: int) -> tuple[int, Signal, int]:
        """The draft's token, its signals (entropy, largest probability) and its second choice.

        ``num_wrong``: the tokens before this position from the first wrong one on; 0 if the draft follows the answer.
        """
        trace = self.trace
        if num_wrong:
            off_path = trace.off_path.get(at - num_wrong, ())
            signal = off_path[min(num_wrong, len(off_path)) - 1] if off_path else self._signal(at)
            return WRONG, signal, OTHER
        right = at < len(trace.accepted) and trace.accepted[at]
        second = at < len(self.second_is_right) and self.second_is_right[at]
        token = self.target_token(at)
        return (
            (token, self._signal(at), OTHER)
            if right
            else (WRONG, self._signal(at), token if second else OTHER)
        )

    def _signal(self, at: int) -> Signal:
        return self.trace.signals[min(at, len(self.trace.signals) - 1)]


class Texts(Protocol):
    """Where answers come from."""

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens of the answers that ``draw`` chooses from."""
        ...

    def draw(self, chance: random.Random, prompt_len: int, num_tokens: int | None) -> AnswerText:
        """The next answer; ``num_tokens`` is its length (None: as the source has it)."""
        ...


@dataclass(frozen=True, slots=True)
class RecordedTexts:
    """Answers drawn from traces of one temperature, with their lengths."""

    traces: tuple[Trace, ...]
    prompt_lens: tuple[int, ...] = ()  # of the traces' prompts, if they are known
    foreseen: float = 0.5  # chance that a wrong proposal's second choice is right

    @property
    def lengths(self) -> Sequence[int]:
        return [trace.num_tokens for trace in self.traces]

    def draw(self, chance: random.Random, prompt_len: int, num_tokens: int | None) -> AnswerText:
        number = chance.randrange(len(self.traces))
        trace = self.traces[number]
        if self.prompt_lens:
            prompt_len = self.prompt_lens[number]
        return AnswerText(prompt_len, trace, _second(chance, trace, self.foreseen))


@dataclass(frozen=True, slots=True)
class EvenTexts:
    """Answers whose every proposal is accepted with the same chance, which the draft's signals do not betray."""

    accepted: float
    num_tokens: int
    foreseen: float = 0.5

    @property
    def lengths(self) -> Sequence[int]:
        return (self.num_tokens,)

    def draw(self, chance: random.Random, prompt_len: int, num_tokens: int | None) -> AnswerText:
        length = num_tokens or self.num_tokens
        stands = tuple(chance.random() < self.accepted for _ in range(length + BLOCK_LEN))
        trace = Trace("even", 0.0, length, length, stands, ((0.5, self.accepted),), {})
        return AnswerText(prompt_len, trace, _second(chance, trace, self.foreseen))


def _second(chance: random.Random, trace: Trace, foreseen: float) -> tuple[bool, ...]:
    return tuple(chance.random() < foreseen for _ in trace.accepted)


def recorded(
    traces: Sequence[Trace], prompt_lens: Sequence[int] = (), foreseen: float = 0.5
) -> RecordedTexts:
    """Answers of traces. ConfigError if there are none, or of several temperatures."""
    temperatures = {trace.temperature for trace in traces}
    if len(temperatures) != 1:
        found = ", ".join(f"{one:g}" for one in sorted(temperatures)) or "no traces at all"
        raise ConfigError(
            f"a simulation needs traces of one temperature, not {found}; collect them with adasd replay"
        )
    return RecordedTexts(tuple(traces), tuple(prompt_lens), foreseen)
