"""What a session and its workers say to each other in a round: frozen dataclasses, no behaviour, no torch.

Glossary: *position* is an index into prompt + answer, from 0. *base_len* is the number of tokens before a block, so
the block's first token has position ``base_len``. *keep_len* is how many cached tokens a worker keeps; everything
behind is rolled back. *feed* are committed tokens that are not cached yet. *epoch* numbers the calls of one session;
an answer with another epoch than the one awaited is stale and dropped.
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
"""Resolution of acceptance tables over the Jensen-Shannon distance, which lies in [0, 1]."""


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
    answer_from: int = 0  # length of the prompt: presence, frequency and grammar see what comes from there on
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
    logprobs: int | None = None  # verdicts report so many likeliest tokens beside each token (target only)
    prompt_logprobs: int | None = None  # the first verdict reports them for the prompt, too


ENTROPY_EDGES = (0.01, 0.03, 0.1, 0.25, 0.5, 0.9, 1.4, 2.2)
"""Nats: entropy H lies in bin b iff edge b - 1 <= H < edge b. There is one bin more than edges."""


@dataclass(frozen=True, slots=True)
class ChanceTable:
    """Acceptance by the entropy of drafted tokens: drafting stops where the next token is not worth its price.

    After a token of bin b the next one is accepted with chance S * ``next_chances[b]``, S being the product of
    ``chances`` over the bins of the block so far.
    """

    chances: tuple[float, ...]  # per bin: that a token is accepted if those before it are
    next_chances: tuple[
        float, ...
    ]  # per bin: that the token after one of this bin is accepted if that one is
    price: float  # the chance that the next token has to exceed


@dataclass(frozen=True, slots=True)
class StopRule:
    """When drafting stops; evaluated beside the logits at every drafted token.

    The token that trips the rule stays in the block. Every published stop rule compiles to a ceiling, a floor or a
    table.
    """

    max_tokens: int  # hard cap, >= 0; 0 only feeds the cache
    entropy_ceiling: float = math.inf  # nats; stop once H > ceiling
    confidence_floor: float = 0.0  # probability; stop once max q < floor
    row_len: int = 0  # entries R of the top-k distribution to send per token; 0 sends none
    drops_last: bool = False  # the session leaves out the token past the ceiling, unless it is the only one
    want_runner_ups: bool = False  # report DraftBlock.runner_ups
    table: ChanceTable | None = None  # stop once the next token's chance is at most its price


Params = Mapping[str, float | tuple[float, ...]]
"""What an acceptance method decided for one round, by name: numbers and tables of numbers."""

TOKEN, BLOCK = "token", "block"
"""The exact tests: token by token, and the block as a whole."""


@dataclass(frozen=True, slots=True)
class AcceptanceRule:
    """What the target accepts: what passes an exact test, or an acceptance method as well, within its budgets.

    ``name`` is ``token``, ``block`` (sampling without a seed only) or that of an acceptance method (adasd.methods),
    which is asked where the exact test fails, token by token. The exact test follows from the session's
    SamplingTransform: greedy match, shared noise under a seed, rejection sampling otherwise. A token that the
    transform forbids is never accepted.
    """

    name: str = TOKEN
    params: Params = field(default_factory=dict)  # of the acceptance method
    relax_budget: int = 0  # tokens that this verdict may accept by relaxation at most
    want_distances: bool = False  # report d_JS of every judged position (needs the draft's distributions)
    max_distortion: float = math.inf  # total variation that relaxation may cost in this verdict

    @property
    def is_exact(self) -> bool:
        """Whether nothing is relaxed."""
        return self.name in (TOKEN, BLOCK)


@dataclass(frozen=True, slots=True, eq=False)
class DraftDistributions:
    """Top-k distributions of a draft: the R likeliest tokens after bias and masks, at temperature 1.

    The draft *samples from* the transform of exactly these entries, so they are the complete proposal distribution for
    the exact test; for the Jensen-Shannon distance the missing mass is one tail bucket.
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
    optimistic: bool = False  # assumes that a block under judgement will be accepted; yields to other work


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
    queue_ms: float = 0.0  # waiting in the worker before
    confidences: tuple[float, ...] = ()  # one per token: largest probability of that distribution
    runner_ups: tuple[int, ...] = ()  # one per token if asked for: the draft's second choice in its place


@dataclass(frozen=True, slots=True)
class Assumption:
    """The verdict of ``epoch`` accepts ``num_accepted`` tokens of its block and puts ``next_token`` behind them."""

    epoch: int
    next_token: int | None  # None: whichever
    num_accepted: int | None = None  # None: all of the block


@dataclass(frozen=True, slots=True)
class VerifyCall:
    """Keep ``keep_len`` cached tokens, feed ``feed``, judge ``block``; an empty block is plain decoding.

    Prefill is the same call: keep 0, feed the prompt, block empty. A call that is ``assuming`` something waits at
    the worker until that is known; then it is done at once, or fails as Superseded. One that assumes whichever
    token feeds nothing itself: the worker feeds that token.
    """

    session: str
    epoch: int
    keep_len: int
    feed: tuple[int, ...]
    block: tuple[int, ...] = ()
    distributions: DraftDistributions | None = None
    rule: AcceptanceRule = field(default_factory=AcceptanceRule)
    confidences: tuple[float, ...] = ()  # the draft's, of the block; without them it is never cut
    assuming: Assumption | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The target's answer: ``block[:num_accepted]`` stands, ``next_token`` follows.

    Judged positions are the accepted ones and, after a rejection, the rejected one:
    ``min(num_accepted + 1, len(block))`` entries in ``exact_ok`` and (if asked for) ``distances``.
    """

    session: str
    epoch: int
    base_len: int
    num_accepted: int
    next_token: int
    relaxed: tuple[bool, ...] = ()  # per accepted token
    exact_ok: tuple[bool, ...] = ()  # per judged position: did the exact test pass
    distances: tuple[float, ...] = ()  # per judged position: d_JS(p, q), base 2
    logprobs: tuple[TokenLogprob, ...] = ()  # per token that follows: the accepted ones and ``next_token``
    prompt_logprobs: tuple[TokenLogprob, ...] = ()  # of a prompt's tokens from the second on
    cached_tokens: int = 0  # fed tokens that a prefix cache already held
    compute_ms: float = 0.0
    queue_ms: float = 0.0
    distortion: float = (
        0.0  # total variation between the distribution and the target's, expected, over judged positions
    )
    block_len: int | None = None  # tokens of the block that were judged; None: all, else the rest was cut off
    batch_size: int = 1  # sessions in the pass that judged
    batch_tokens: int = 0  # tokens in it, all sessions together; 0: not told


@dataclass(frozen=True, slots=True)
class CallFailed:
    """One call failed; the session's slot stays open."""

    session: str
    epoch: int
    error: Exception  # an AdasdError


@dataclass(frozen=True, slots=True)
class PrefixStats:
    """Prompt tokens that were looked up in an engine's prefix cache, and found in it, since the engine's start."""

    num_queried: int = 0
    num_hits: int = 0


@dataclass(frozen=True, slots=True)
class RoundCompleted:
    """One verdict and what led to it; estimators, metrics and the request's figures feed on it."""

    drafted: DraftBlock | None  # None: nothing was drafted
    verdict: Verdict
    draft_ms: float = 0.0  # wall time from asking the draft to its block
    verify_ms: float = 0.0  # wall time from asking the target to its verdict
    prefill: bool = (
        False  # the verdict on an empty block behind the whole prompt: no round, says nothing of drafting
    )
    rule: StopRule | None = None  # that the block was drafted by; None: nothing was drafted
    foreseen: bool | None = (
        None  # rejected at the draft's greatest doubt, for its second choice; None: it named none
    )

    num_emitted: int | None = None  # tokens that came out of it; None: all of the verdict's

    @property
    def num_drafted(self) -> int:
        """Tokens that were judged as a block in this round."""
        return len(self.drafted.tokens) if self.drafted else 0

    @property
    def num_accepted(self) -> int:
        """Drafted tokens that came out; the verdict's own count goes on behind the end of the answer."""
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
    """A block was not there in time; its round goes on without it."""
