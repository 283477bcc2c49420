"""The service's own figures: one scrape of its ``/metrics`` page, and the resources that a run must give back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass

LINE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{([^}]*)\})? (\S+)$", re.MULTILINE)
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

HELD = ("running", "waiting", "leases", "sessions", "streams", "pending_calls")
"""What an idle service holds none of."""


class Page:
    """One scrape; series by name."""

    def __init__(self, text: str) -> None:
        self._series: dict[str, list[tuple[Mapping[str, str], float]]] = {}
        for name, labels, value in LINE.findall(text):
            self._series.setdefault(name, []).append((dict(LABEL.findall(labels)), float(value)))

    def total(self, name: str, **labels: str) -> float:
        """Sum over all series with these labels; 0 if there is none."""
        return sum(value for _, value in self._of(name, labels))

    def count(self, name: str, **labels: str) -> int:
        return len(self._of(name, labels))

    def _of(self, name: str, labels: Mapping[str, str]) -> list[tuple[Mapping[str, str], float]]:
        return [(own, value) for own, value in self._series.get(name, []) if labels.items() <= own.items()]


@dataclass(frozen=True, slots=True)
class Scrape:
    """The state of the service at one moment, over all replicas."""

    at_s: float
    targets: int  # replicas that report
    drafts: int
    running: int  # answers in progress
    waiting: int  # of those, the ones without a target slot
    leases: int  # on both tiers
    sessions: int  # open slots of both tiers
    streams: int
    pending_calls: int
    generated: float  # tokens since the start
    judged: float  # drafted tokens that were verified
    accepted: float
    resident_mb: float  # memory of the replicas' processes
    open_files: int  # file descriptors
    tasks: int  # of the replicas' event loops
    threads: int

    @property
    def held(self) -> dict[str, int]:
        """What is in use, by name."""
        return {name: value for name, value in asdict(self).items() if name in HELD}


def sample(text: str, at_s: float) -> Scrape:
    """The values of one scrape; figures that the server does not have are 0."""
    page = Page(text)
    return Scrape(
        at_s=round(at_s, 3),
        targets=page.count("adasd_worker_slots", role="target"),
        drafts=page.count("adasd_worker_slots", role="draft"),
        running=round(page.total("vllm:num_requests_running")),
        waiting=round(page.total("vllm:num_requests_waiting")),
        leases=round(page.total("adasd_worker_leases")),
        sessions=round(page.total("adasd_worker_sessions")),
        streams=round(page.total("adasd_worker_streams")),
        pending_calls=round(page.total("adasd_worker_pending_calls")),
        generated=page.total("vllm:generation_tokens_total"),
        judged=page.total("vllm:spec_decode_num_draft_tokens_total"),
        accepted=page.total("vllm:spec_decode_num_accepted_tokens_total"),
        resident_mb=round(page.total("adasd_process_resident_bytes") / 1e6, 1),
        open_files=round(page.total("adasd_process_open_files")),
        tasks=round(page.total("adasd_process_tasks")),
        threads=round(page.total("adasd_process_threads")),
    )
