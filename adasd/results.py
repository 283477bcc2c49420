"""The parts of an answer: chunks of tokens with their provenance, and the statistics at its end."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from adasd.requests import SpeculationOptions


class TokenKind(StrEnum):
    """Provenance of one emitted token."""

    EXACT = "exact"  # drafted, accepted by the exact test
    RELAXED = "relaxed"  # drafted, failed the exact test, accepted by relaxation
    CORRECTION = "correction"  # the target's token after a rejection
    BONUS = "bonus"  # the target's token after a full acceptance
    TARGET = "target"  # the target's token with nothing drafted (prefill, plain decoding)


class FinishReason(StrEnum):
    """Why an answer ended; ``stop`` and ``length`` as in OpenAI's API."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The target's log-probability of one token, before penalties, bias, masks and temperature."""

    logprob: float  # natural logarithm of the token's probability
    top: tuple[tuple[int, float], ...] = ()  # (token id, logprob) of the likeliest tokens, falling


class EmittedToken(NamedTuple):
    """One committed token and its provenance. A named tuple, since every round makes a handful of them."""

    id: int
    kind: TokenKind
    logprob: TokenLogprob | None = None  # if requested


@dataclass(frozen=True, slots=True)
class Chunk:
    """The part of the answer from one verdict; ``text`` may lag behind ``tokens``."""

    text: str
    tokens: tuple[EmittedToken, ...]
    finish_reason: FinishReason | None = None  # set on the last chunk of the answer
    prompt_logprobs: tuple[TokenLogprob, ...] = ()  # in the first chunk, if requested


@dataclass(frozen=True, slots=True)
class Usage:
    """Counts of one answer, in tokens."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class SpeculationReport:
    """Statistics of speculation for one answer, with effective options and learned values."""

    effective: SpeculationOptions  # with the deployment's defaults filled in
    num_rounds: int  # verdicts, prefill not counted
    num_draft_rounds: int  # verdicts on a block that was not empty
    num_draft_tokens: int
    num_accepted_tokens: int
    accepted_per_round: tuple[int, ...]  # per round with a block: accepted tokens
    drafted_per_round: tuple[int, ...]  # per round with a block: drafted tokens
    kinds: tuple[tuple[TokenKind, int], ...]  # emitted tokens by provenance
    generation_threshold: float | None  # entropy ceiling of the last round, nats; None: no ceiling
    acceptance_threshold: float | None  # largest d_JS that is accepted; None: none
    draft_ms: float  # compute on the draft worker
    verify_ms: float  # compute on the target worker
    network_ms: float  # waiting for network and queues, both sides
    draft_lost: int = 0  # how often the draft was lost or late
    target_lost: int = 0
    num_ahead: int = 0  # blocks drafted while the target was judging the one before
    num_ahead_used: int = 0  # of these, the ones whose assumption came true
    drafts_used: tuple[str, ...] = ()  # sources whose blocks were judged, in the order of first use
    distortion: float = 0.0  # expected total variation from relaxation, summed over the answer


@dataclass(frozen=True, slots=True)
class Complete:
    """The end of an answer; always the last event of a stream that did not fail."""

    finish_reason: FinishReason
    usage: Usage
    speculation: SpeculationReport
    stop_match: str | int | None = None  # the stop string or token id that ended it
