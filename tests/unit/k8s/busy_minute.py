"""Metric series of a small busy deployment, made by the service's own metric code from scripted events.

One orchestrator, one draft, one target. Every kind of event happens, so every series exists.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from adasd.requests import Mode, SpeculationOptions
from adasd.results import Chunk, Complete, EmittedToken, FinishReason, SpeculationReport, TokenKind, Usage
from adasd.rounds import BlockLate, DraftBlock, RoundCompleted, SlotGranted, SlotLost, Verdict
from services.observability.metrics import ServiceMetrics
from services.observability.process import ProcessCollector
from services.observability.service_events import (
    AnswerAudited,
    AuditEnded,
    ChunkMade,
    RequestEnded,
    RequestRefused,
    RequestStarted,
)
from services.observability.snapshot import ReplicaSnapshot, render, take
from services.observability.worker_metrics import WorkerCollector
from services.worker.host_stats import HostStats

MAX_DRAFT_TOKENS = 4


class BusyMinute:
    """Each ``go_on`` ends one more answer."""

    def __init__(self) -> None:
        self.num_answers = 0
        self.registry = CollectorRegistry()
        self.tell = ServiceMetrics(self.registry, "pair", 4096, MAX_DRAFT_TOKENS)
        self.tell(RequestStarted("waiting", Mode.EXACT, 3, 0.0))
        self.registry.register(ProcessCollector())
        self.workers = {role: self._worker(role) for role in ("draft", "target")}
        self.go_on()

    def go_on(self) -> None:
        """An adaptive answer of two chunks, with one block late, one slot of each tier lost, one refusal."""
        self.num_answers += 1
        name, now_s = f"r{self.num_answers}", 10.0 * self.num_answers
        tell = self.tell
        tell(RequestStarted(name, Mode.ADAPTIVE, 10, now_s))
        tell(SlotGranted(name, "target", 0.01, now_s + 0.01))
        tell(SlotGranted(name, "draft", 0.02, now_s + 0.02))
        tell(ChunkMade(name, Chunk("a", (EmittedToken(1, TokenKind.TARGET),)), now_s + 0.2))
        drafted = DraftBlock(name, 1, 10, (1, 2, 3, 4), (0.1, 0.2, 0.3, 0.4), None, 3.0, 0.5)
        verdict = Verdict(name, 1, 10, 4, 5, (False, True, False, False), compute_ms=8.0, queue_ms=0.5)
        tell(RoundCompleted(drafted, verdict, 4.0, 10.0))
        kinds = (TokenKind.EXACT, TokenKind.RELAXED, TokenKind.EXACT, TokenKind.EXACT, TokenKind.BONUS)
        tokens = tuple(EmittedToken(i, kind) for i, kind in enumerate(kinds))
        tell(ChunkMade(name, Chunk("bbbbb", tokens, FinishReason.STOP), now_s + 0.3))
        tell(AnswerAudited("greedy", 6, 1))
        tell(AuditEnded("done"))
        tell(BlockLate())
        tell(SlotLost("draft"))
        tell(SlotLost("target"))
        tell(RequestRefused("http", "overloaded"))
        tell(RequestEnded(name, now_s + 0.3, Complete(FinishReason.STOP, Usage(10, 6), self._report())))

    def text(self) -> bytes:
        """The text of /metrics."""
        shots: list[ReplicaSnapshot] = [take(self.registry, "o1", "orchestrator", self.num_answers)]
        shots += [take(worker, role, role, self.num_answers) for role, worker in self.workers.items()]
        return render(shots)

    def _worker(self, role: str) -> CollectorRegistry:
        registry = CollectorRegistry()
        registry.register(ProcessCollector())
        registry.register(WorkerCollector(role, "pair", self._stats, lambda: 2))
        return registry

    def _stats(self) -> HostStats:
        n = self.num_answers
        return HostStats(8, 2, 1, 3 * n, 3 * n, n, 5 * n, 0.01 * n, ((1, 2 * n), (4, n)))

    def _report(self) -> SpeculationReport:
        return SpeculationReport(
            effective=SpeculationOptions(Mode.ADAPTIVE, "adasd", "posterior", MAX_DRAFT_TOKENS, 0.3),
            num_rounds=2,
            num_draft_rounds=1,
            num_draft_tokens=4,
            num_accepted_tokens=4,
            accepted_per_round=(4,),
            drafted_per_round=(4,),
            kinds=((TokenKind.EXACT, 3), (TokenKind.RELAXED, 1), (TokenKind.BONUS, 1), (TokenKind.TARGET, 1)),
            generation_threshold=1.2,
            acceptance_threshold=0.1,
            draft_ms=3.0,
            verify_ms=8.0,
            network_ms=3.0,
            num_ahead=2,
            num_ahead_used=1,
        )
