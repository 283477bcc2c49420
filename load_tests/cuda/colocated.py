"""Rounds of a draft and a target on one card: in turn, or on two streams that run at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel

from adasd.engine.engine import TorchEngine
from adasd.rounds import CallFailed, DraftBlock, DraftCall, OpenCall, StopRule, Verdict, VerifyCall
from adasd.testing.loops import GREEDY

Stream = Callable[[], AbstractContextManager[object]]
"""Enters a stream of the device."""


TOKEN = 7
"""The one that ``always_agreeing`` models choose."""


def always_agreeing(model: PreTrainedModel) -> PreTrainedModel:
    """The model with weights that make every next token ``TOKEN``: what one drafts, another accepts, at the usual cost.

    All embeddings are ones, layers add nothing, and the head gives a score to that token alone.
    """
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight", "lm_head.weight")):
                weight.zero_()
            if "embed_tokens" in name:
                weight.fill_(1.0)
        model.get_output_embeddings().weight[TOKEN] = 1.0  # type: ignore[no-untyped-call]
    return model


@contextmanager
def two_streams(device: torch.device) -> Iterator[tuple[Stream, Stream]]:
    """A stream for each of two threads; on a CPU there are none, and threads share the processor."""
    if device.type != "cuda":
        yield nullcontext, nullcontext
        return
    torch.cuda.synchronize(device)
    streams = [torch.cuda.Stream(device) for _ in range(2)]  # type: ignore[no-untyped-call]
    yield lambda: torch.cuda.stream(streams[0]), lambda: torch.cuda.stream(streams[1])
    torch.cuda.synchronize(device)


@dataclass(slots=True, eq=False)
class Session:
    """One answer: its tokens, and the block that the target is to judge next."""

    name: str
    tokens: list[int]
    block: tuple[int, ...] = ()
    num_judged: int = 0  # drafted tokens, of all rounds
    num_accepted: int = 0


@dataclass(slots=True, eq=False)
class Pair:
    """Sessions that are open on both engines and hold a prompt of their own each."""

    draft: TorchEngine
    target: TorchEngine
    block_len: int
    sessions: list[Session] = field(default_factory=list)

    def open(self, num_sessions: int, context: int, num_rounds: int) -> None:
        """Prefill both caches; there is room for so many rounds."""
        room = context + (num_rounds + 1) * (self.block_len + 1)
        for i in range(num_sessions):
            prompt = [(7 * i + 3 * at) % self.target.vocab_size for at in range(context)]
            self.sessions.append(Session(f"pair {num_sessions} x {context}: {i}", prompt))
        for engine in (self.draft, self.target):
            for session in self.sessions:
                engine.open(OpenCall(session.name, GREEDY, room))
        self.verify(self.sessions)
        self.propose(self.sessions)

    def close(self) -> None:
        for engine in (self.draft, self.target):
            for session in self.sessions:
                engine.close(session.name)
        self.sessions.clear()

    def propose(self, sessions: Sequence[Session]) -> None:
        """Draft a block for each."""
        rule = StopRule(self.block_len)
        for session in sessions:
            keep = min(self.draft.cached_len(session.name), len(session.tokens) - 1)
            feed = tuple(session.tokens[keep:])
            self.draft.submit(DraftCall(session.name, 0, keep, feed, rule))
        blocks = _answers(self.draft)
        for session in sessions:
            block = blocks[session.name]
            assert isinstance(block, DraftBlock)
            session.block = block.tokens

    def forget_blocks(self) -> None:
        """From now on the sessions decode plainly."""
        for session in self.sessions:
            session.block = ()

    @property
    def accepted_per_round(self) -> float:
        """Of the drafted tokens of one block, over all rounds so far."""
        judged = sum(session.num_judged for session in self.sessions)
        return self.block_len * sum(session.num_accepted for session in self.sessions) / judged

    def verify(self, sessions: Sequence[Session]) -> None:
        """Judge each one's block, which may be empty: plain decoding."""
        for session in sessions:
            keep = self.target.cached_len(session.name)
            feed = tuple(session.tokens[keep:])
            self.target.submit(VerifyCall(session.name, 0, keep, feed, session.block))
        verdicts = _answers(self.target)
        for session in sessions:
            verdict = verdicts[session.name]
            assert isinstance(verdict, Verdict)
            session.num_judged += len(session.block)
            session.num_accepted += verdict.num_accepted
            session.tokens += [*session.block[: verdict.num_accepted], verdict.next_token]
            session.block = ()

    def in_turn(self) -> None:
        """One round of all sessions: the target judges all blocks, then the draft drafts all."""
        self.verify(self.sessions)
        self.propose(self.sessions)

    def at_once(self, threads: ThreadPoolExecutor, streams: tuple[Stream, Stream]) -> None:
        """One round of all sessions: while the target judges one half's blocks, the draft drafts the other half's."""
        halves = self.sessions[::2], self.sessions[1::2]

        def on(stream: Stream, work: Callable[[Sequence[Session]], None], half: Sequence[Session]) -> None:
            with stream():
                work(half)

        for judged, drafted in (halves, halves[::-1]):
            both = [
                threads.submit(on, streams[0], self.verify, judged),
                threads.submit(on, streams[1], self.propose, drafted),
            ]
            for one in both:
                one.result()


def _answers(engine: TorchEngine) -> dict[str, DraftBlock | Verdict]:
    """Of all waiting calls, by session; raises the first error."""
    answers: dict[str, DraftBlock | Verdict] = {}
    while engine.num_pending:
        for answer in engine.step():
            if isinstance(answer, CallFailed):
                raise answer.error
            answers[answer.session] = answer
    return answers
