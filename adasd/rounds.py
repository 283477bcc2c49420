"""The messages between a session and its workers in a round: frozen dataclasses, no behaviour, no torch.

Glossary: *position* is an index into prompt + answer, from 0. *base_len* is the number of tokens before a block, so
the block's first token has position ``base_len``. *keep_len* is how many cached tokens a worker keeps; the rest is
rolled back. *feed* are committed tokens that are not cached yet. *epoch* numbers the calls of one session; a reply
with another epoch than the expected one is stale and dropped.
Shape letters: K drafted tokens, R entries of a top-k distribution, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from adasd.requests import Grammar
from adasd.results import TokenLogprob

NUM_DISTANCE_BINS = 256
"""Bins of acceptance tables over the Jensen-Shannon distance, which lies in [0, 1]."""


@dataclass(frozen=True, slots=True)
class SamplingTransform:
    """How logits become the sampling distribution; the same on both sides (adasd.specdec.distributions.transform).

    Order: penalties, bias, grammar and forbidden end-of-sequence, temperature, top-k, top-p, min-p.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    eos_ids: tuple[int, ...] = ()
    eos_from: int = 0  # first absolute position at which eos_ids are allowed
    seed: int | None = None  # set: shared Gumbel noise keyed by (seed, position); unset: worker's generator
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    answer_from: int = 0  # prompt length; presence, frequency and grammar apply to tokens from there on
    grammar: Grammar | None = None

    @property
    def greedy(self) -> bool:
        """Temperature 0: the distribution is a point mass on the first largest logit."""
        return self.temperature == 0.0


@dataclass(frozen=True, slots=True)
class OpenCall:
    """Open a slot for a session."""

    session: str
    transform: SamplingTransform
    max_len: int  # tokens of prompt + answer that the slot may ever hold
    logprobs: int | None = None  # number of likeliest tokens that verdicts report per token (target only)
    prompt_logprobs: int | None = None  # the same for the prompt's tokens, in the first verdict


ENTROPY_EDGES = (0.01, 0.03, 0.1, 0.25, 0.5, 0.9, 1.4, 2.2)
"""Nats: entropy H lies in bin b iff edge b - 1 <= H < edge b. There is one more bin than edges."""


@dataclass(frozen=True, slots=True)
class ChanceTable:
    """Chances of acceptance by entropy bin: drafting stops when the next token is not worth its price.

    After a token of bin b, the next one is accepted with chance S * ``next_chances[b]``, where S is the product of
    ``chances`` over the bins of the block so far.
    """

    chances: tuple[float, ...]  # per bin: that a token is accepted if those before it are
    next_chances: tuple[float, ...]  # per bin: the same for the token after one of this bin
    price: float  # the chance that the next token has to exceed


@dataclass(frozen=True, slots=True)
class StopRule:
    """When drafting stops; evaluated by the draft source after every drafted token.

    The token that triggers the rule stays in the block. Every published stop rule can be written as a ceiling, a floor
    or a table.
    """

    max_tokens: int  # hard cap, >= 0; 0 only feeds the cache
    entropy_ceiling: float = math.inf  # nats; stop once H > ceiling
    confidence_floor: float = 0.0  # probability; stop once max q < floor
    row_len: int = 0  # entries R of the top-k distribution to send per token; 0 sends none
    drops_last: bool = False  # the session leaves out the token past the ceiling, unless it is the only one
    want_runner_ups: bool = False  # report DraftBlock.runner_ups
    table: ChanceTable | None = None  # stop once the next token's chance is at most its price

    def up_to(self, max_tokens: int) -> StopRule:
        """The rule with this cap. Every round wants one; ``dataclasses.replace`` takes twice as long."""
        if max_tokens == self.max_tokens:
            return self
        return StopRule(
            max_tokens,
            self.entropy_ceiling,
            self.confidence_floor,
            self.row_len,
            self.drops_last,
            self.want_runner_ups,
            self.table,
        )


Params = Mapping[str, float | tuple[float, ...]]
"""An acceptance method's parameters for one round, by name: numbers and tables of numbers."""

TOKEN, BLOCK = "token", "block"
"""The exact tests: token by token, and the block as a whole."""


@dataclass(frozen=True, slots=True)
class AcceptanceRule:
    """What the target accepts: tokens that pass the exact test, or also those of an acceptance method, within budgets.

    ``name`` is ``token``, ``block`` (sampling without a seed only) or an acceptance method (adasd.methods), which is
    applied token by token where the exact test fails. The exact test follows from the session's SamplingTransform:
    greedy match, shared noise under a seed, rejection sampling otherwise. A token that the transform forbids is never
    accepted.
    """

    name: str = TOKEN
    params: Params = field(default_factory=dict)  # of the acceptance method
    relax_budget: int = 0  # most tokens that this verdict may accept by relaxation
    want_distances: bool = False  # report d_JS of every judged position (needs the draft's distributions)
    max_distortion: float = math.inf  # largest total variation from relaxation in this verdict

    @property
    def is_exact(self) -> bool:
        """Whether nothing is relaxed."""
        return self.name in (TOKEN, BLOCK)


@dataclass(frozen=True, slots=True, eq=False)
class DraftDistributions:
    """Top-k distributions of a draft: the R likeliest tokens after bias and masks, at temperature 1.

    The draft *samples from* the transform of exactly these entries, so they are the complete proposal distribution for
    the exact test; for the Jensen-Shannon distance, the missing mass counts as one tail bucket.
    """

    ids: NDArray[np.int32]  # [K, R], by falling probability
    logprobs: NDArray[np.float32]  # [K, R], natural logarithms of the full distribution's probabilities


@dataclass(frozen=True, slots=True)
class DraftCall:
    """Keep ``keep_len`` cached tokens, feed ``feed``, then draft by ``rule``."""

    session: str
    epoch: int
    keep_len: int
    feed: tuple[int, ...]
    rule: StopRule
    optimistic: bool = False  # assumes the outcome of a pending verdict; yields to other work
    patience_s: float = math.inf  # since the call's arrival; from then on no further token is begun


@dataclass(frozen=True, slots=True)
class DraftBlock:
    """A block; its first token has position ``base_len = keep_len + len(feed)`` of the call."""

    session: str
    epoch: int
    base_len: int
    tokens: tuple[int, ...]
    entropies: tuple[float, ...]  # nats, one per token, of the distribution after masks at temperature 1
    distributions: DraftDistributions | None = None
    compute_ms: float = 0.0  # forward passes that this call took part in
    queue_ms: float = 0.0  # waiting in the worker before that
    confidences: tuple[float, ...] = ()  # one per token: largest probability of that distribution
    runner_ups: tuple[int, ...] = ()  # one per token if requested: the draft's second choice


@dataclass(frozen=True, slots=True)
class Assumption:
    """The verdict of ``epoch`` accepts ``num_accepted`` tokens of its block, and ``next_token`` follows."""

    epoch: int
    next_token: int | None  # None: any token
    num_accepted: int | None = None  # None: all of the block


@dataclass(frozen=True, slots=True)
class VerifyCall:
    """Keep ``keep_len`` cached tokens, feed ``feed``, judge ``block``; an empty block is plain decoding.

    Prefill is the same call: keep 0, feed the prompt, block empty. A call with an assumption (``assuming``) waits in
    the worker until the outcome is known; then it runs at once, or fails as Superseded. A call that assumes any token
    feeds nothing itself: the worker feeds the token.
    """

    session: str
    epoch: int
    keep_len: int
    feed: tuple[int, ...]
    block: tuple[int, ...] = ()
    distributions: DraftDistributions | None = None
    rule: AcceptanceRule = field(default_factory=AcceptanceRule)
    confidences: tuple[float, ...] = ()  # the draft's, one per token; without them the block is never cut
    assuming: Assumption | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The target's reply: ``block[:num_accepted]`` is accepted, ``next_token`` follows.

    Judged positions are the accepted ones and, after a rejection, the rejected one:
    ``min(num_accepted + 1, len(block))`` entries in ``exact_ok`` and (if requested) ``distances``.
    """

    session: str
    epoch: int
    base_len: int
    num_accepted: int
    next_token: int
    relaxed: tuple[bool, ...] = ()  # per accepted token
    exact_ok: tuple[bool, ...] = ()  # per judged position: whether the exact test passed
    distances: tuple[float, ...] = ()  # per judged position: d_JS(p, q), base 2
    logprobs: tuple[TokenLogprob, ...] = ()  # of the accepted tokens and ``next_token``
    prompt_logprobs: tuple[TokenLogprob, ...] = ()  # of a prompt's tokens from the second on
    cached_tokens: int = 0  # fed tokens that a prefix cache already held
    compute_ms: float = 0.0
    queue_ms: float = 0.0
    distortion: float = 0.0  # expected total variation from relaxation, summed over judged positions
    block_len: int | None = None  # tokens of the block that were judged; None: all, else the rest was cut off
    batch_size: int = 1  # sessions in the forward pass of this verdict
    batch_tokens: int = 0  # tokens in that pass, of all sessions; 0: unknown


@dataclass(frozen=True, slots=True)
class CallFailed:
    """One call failed; the session's slot stays open."""

    session: str
    epoch: int
    error: Exception  # an AdasdError


@dataclass(frozen=True, slots=True)
class PrefixStats:
    """Prompt tokens looked up in an engine's prefix cache, and those found there, since the engine's start."""

    num_queried: int = 0
    num_hits: int = 0


@dataclass(frozen=True, slots=True)
class CacheUse:
    """An engine's KV cache now, in blocks: pages, or slots where they are contiguous."""

    num_blocks: int = 0
    block_len: int = 0  # tokens
    num_used: int = 0  # blocks of open sessions, without what is kept for later prompts
    num_preempted: int = 0  # sessions that gave their blocks to older ones, since the engine's start


@dataclass(frozen=True, slots=True)
class RoundCompleted:
    """One verdict and its block; input of estimators, metrics and the request's statistics."""

    drafted: DraftBlock | None  # None: nothing was drafted
    verdict: Verdict
    draft_ms: float = 0.0  # wall time that the round waited for its block; 0 if drafted ahead in time
    verify_ms: float = 0.0  # wall time from the verify call to the verdict
    overhead_ms: float = 0.0  # wall time between the verdict before and this one, beyond the two
    prefill: bool = False  # the verdict on an empty block after the whole prompt; not a round
    rule: StopRule | None = None  # the rule that the block was drafted by; None: nothing was drafted
    foreseen: bool | None = None  # whether the likeliest rejection came true; None: none was predicted
    asked_early: bool | None = (
        None  # whether the call left before the last verdict came; None: calls never do
    )
    num_emitted: int | None = None  # emitted tokens of the verdict; None: all

    @property
    def num_drafted(self) -> int:
        """Judged tokens of this round's block."""
        return len(self.drafted.tokens) if self.drafted else 0

    @property
    def num_accepted(self) -> int:
        """Accepted tokens that were emitted; the verdict's own count may go beyond the end of the answer."""
        accepted = self.verdict.num_accepted
        return accepted if self.num_emitted is None else min(accepted, self.num_emitted)


@dataclass(frozen=True, slots=True)
class SlotGranted:
    """A session got a slot of this role after ``waited_s`` seconds."""

    request_id: str
    role: str  # draft | target
    waited_s: float
    at_s: float


@dataclass(frozen=True, slots=True)
class SlotLost:
    """A slot was lost: its replica died, hangs, or was cut off."""

    role: str


@dataclass(frozen=True, slots=True)
class BlockLate:
    """A block was late; its round continues without it."""
