"""A Backend without models but with real behaviour: it speculates on a known text, and can be told to fail.

The answer is the last part of the prompt's text, token by token, in blocks of ``block_len``; stop strings,
``max_tokens`` and cancellation work. Words in the prompt steer it: ``overload`` is refused before the first
event, ``break`` fails after two steps, ``crash`` fails with an unforeseen error, ``hang`` waits for ever.
"""

import asyncio
from dataclasses import dataclass

from adasd.config import SpeculationConfig
from adasd.control.options import resolve
from adasd.errors import Overloaded, WorkerLost
from adasd.requests import Mode
from adasd.results import (
    Chunk,
    Complete,
    EmittedToken,
    FinishReason,
    SpeculationReport,
    TokenKind,
    TokenLogprob,
    Usage,
)
from adasd.text.tokenizer import Tokenizer
from services.gateway.backend import Readiness, ServedModel
from tests.unit.text.tokenizers_for_tests import byte_level

MODEL = "fake-model"
TOKENIZER = Tokenizer(byte_level())


def logprob_of(token_id, num_top):
    """This backend's log-probability of a token: a number that tells it from its neighbours."""
    own = -(token_id % 16) / 16 - 0.03125
    return TokenLogprob(own, tuple((token_id + i, own - i) for i in range(num_top)))


@dataclass
class Tally:
    """Events recorded for tests."""

    started: int = 0
    running: int = 0
    requests: tuple = ()


class FakeBackend:
    def __init__(self, block_len=4, step_s=0.0, context_len=256, tokenizer=TOKENIZER):
        self.tokenizer = tokenizer
        self.sampling_defaults = {}
        self.says = None  # the answer's text, where it is not the prompt's
        self.model_name, self.context_len = MODEL, context_len
        self.block_len, self.step_s = block_len, step_s
        self.state = Readiness(ready=True)
        self.tally = Tally()
        self.idle = asyncio.Event()
        self.idle.set()
        self.may_give_back = asyncio.Event()  # while it is cleared, slots are not given back
        self.may_give_back.set()
        self.is_full = False
        self.aborted = {}  # running request id -> whether it was aborted
        self.config = SpeculationConfig(max_draft_tokens=8)

    def effective(self, options):
        return resolve(options, self.config).options

    def readiness(self):
        return self.state

    def models(self):
        return [
            ServedModel(
                MODEL,
                self.context_len,
                1_700_000_000,
                "target",
                "draft",
                sampling_defaults=self.sampling_defaults,
            )
        ]

    def refusal(self):
        return Overloaded("too many wait already", 2.5) if self.is_full else None

    def abort(self, request_id):
        running = request_id in self.aborted
        if running:
            self.aborted[request_id] = True
        return running

    @property
    def num_running(self):
        return self.tally.running

    async def generate(self, request):
        self.tally.started += 1
        self.tally.running += 1
        self.aborted[request.request_id] = False
        self.idle.clear()
        self.tally.requests += (request,)
        try:
            text = self.tokenizer.decode(request.prompt)
            if "overload" in text:
                raise Overloaded("every slot is taken", 2.5)
            if "hang" in text:
                await asyncio.Event().wait()
            async for event in self._events(request, text):
                yield event
        finally:
            await self.may_give_back.wait()
            self.tally.running -= 1
            del self.aborted[request.request_id]
            if not self.tally.running:
                self.idle.set()

    def answer_to(self, request, text):
        """The text of the answer; None: the prompt's own."""
        return self.says

    async def _events(self, request, text):
        effective = self.effective(request.speculation)
        says = self.answer_to(request, text)
        said = request.prompt if says is None else self.tokenizer.encode(says)
        ids = [i for i in said if i not in self.tokenizer.eos_ids][: request.sampling.max_tokens]
        block_len = 1 if effective.mode is Mode.OFF else self.block_len
        blocks = [ids[:1]] * bool(ids)
        blocks += [*(ids[i : i + block_len] for i in range(1, len(ids), block_len))]
        shown, tokens, accepted = "", [], []
        finish, match = FinishReason.LENGTH if says is None else FinishReason.STOP, None
        for number, block in enumerate(blocks):
            await asyncio.sleep(self.step_s)
            if number == 2 and "break" in text:
                raise WorkerLost("target", "it was unplugged")
            if number == 2 and "crash" in text:
                raise ZeroDivisionError("secret detail")
            kinds = self._kinds(number, len(block), effective.mode)
            num_top = request.sampling.logprobs
            tokens += [
                EmittedToken(i, kind, None if num_top is None else logprob_of(i, num_top))
                for i, kind in zip(block, kinds, strict=True)
            ]
            if number and effective.mode is not Mode.OFF:
                accepted.append(len(block) - 1)
            whole = self.tokenizer.decode([t.id for t in tokens]).rstrip("\ufffd")
            match = next((s for s in request.sampling.stop if s in whole), None)
            if match is not None:
                whole, finish = whole[: whole.index(match)], FinishReason.STOP
            if self.aborted[request.request_id]:
                finish = FinishReason.CANCELLED
            last = match is not None or number == len(blocks) - 1 or finish is FinishReason.CANCELLED
            fresh, shown = whole[len(shown) :], whole
            of_prompt = self._of_prompt(request) if number == 0 else ()
            yield Chunk(fresh, tuple(tokens[-len(block) :]), finish if last else None, of_prompt)
            if last:
                break
        yield Complete(
            finish,
            Usage(len(request.prompt), len(tokens), cached_tokens=2),
            self._report(effective, tokens, tuple(accepted)),
            match,
        )

    def _of_prompt(self, request):
        num_top = request.sampling.prompt_logprobs
        return () if num_top is None else tuple(logprob_of(i, num_top) for i in request.prompt[1:])

    def _kinds(self, number, num_tokens, mode):
        if number == 0 or mode is Mode.OFF:
            return [TokenKind.TARGET] * num_tokens
        return [*[TokenKind.EXACT] * (num_tokens - 1), TokenKind.CORRECTION]

    def _report(self, effective, tokens, accepted):
        kinds = {}
        for token in tokens:
            kinds[token.kind] = kinds.get(token.kind, 0) + 1
        drafted = tuple(self.block_len for _ in accepted)
        return SpeculationReport(
            effective=effective,
            num_rounds=len(accepted),
            num_draft_rounds=len(accepted),
            num_draft_tokens=sum(drafted),
            num_accepted_tokens=sum(accepted),
            accepted_per_round=accepted,
            drafted_per_round=drafted,
            kinds=tuple(kinds.items()),
            generation_threshold=float("inf"),
            acceptance_threshold=0.25 if effective.acceptance else None,
            draft_ms=1.5,
            verify_ms=2.5,
            network_ms=0.5,
        )
