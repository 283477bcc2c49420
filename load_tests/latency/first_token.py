"""The time to the first token of an idle service, stage by stage.

    python -m load_tests.latency.first_token [--requests 40] [--pauses 0.1 3] [--against DIR] [--json FILE]

A demo server with traces, whose spans come to a collector in this process: all clocks are this machine's. Requests for
streamed answers of 16 tokens come one after the other, ``--pauses`` seconds apart, in the modes off and exact in turn;
medians over them. With ``--against`` a server from another checkout runs as well, and each request goes to both.

* *arrives*: from sending the request until the orchestrator begins its answer: proxy, router, body, text to tokens
* *slot*: until the target's slot is leased and its opening sent
* *verdict*: until the first verdict is back, *prefill* included, which is the target's pass
* *leaves*: until the client has the first event
* */health*: a request that only goes there and back, for comparison

``--goal`` milliseconds for the first token without prefill; the exit status is 1 if a median is above it.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import httpx
from rich.table import Table

from cluster.http_client import first_model, server_sent
from load_tests import record
from load_tests.demo_pair import positive
from load_tests.demo_prompts import examples
from load_tests.latency.span_collector import Collector, Span, collecting
from load_tests.load.server_under_test import demo_server

MODES = ("off", "exact")
NUM_PROMPTS = 24
NUM_WARM = 4
"""Requests per mode before any counts: links, routers and policies have begun."""
MAX_TOKENS = 16
SPANS_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Stages:
    """Milliseconds of one request, or medians of many."""

    arrives: float
    slot: float
    verdict: float
    prefill: float  # within verdict
    leaves: float
    first_token: float  # all of them

    @property
    def beyond_prefill(self) -> float:
        return self.first_token - self.prefill


def stages(sent_ns: int, first_ns: int, spans: Sequence[Span]) -> Stages:
    """From the client's stamps and the spans of its request; LookupError or ValueError if one is missing."""
    by_name: dict[str, Span] = {}
    for span in sorted(spans, key=lambda one: one.start_ns):
        by_name.setdefault(span.name, span)
    (answer,) = (span for span in spans if "adasd.session" in span.attributes)
    begun_ns, leased_ns = answer.start_ns, answer.events["adasd.target_slot"]
    verdict_ns = by_name["adasd.prefill"].end_ns
    prefill = by_name["adasd.target.verify"].attributes["adasd.compute_ms"]
    at_ns = (sent_ns, begun_ns, leased_ns, verdict_ns, first_ns)
    arrives, slot, verdict, leaves = ((b - a) / 1e6 for a, b in pairwise(at_ns))
    return Stages(arrives, slot, verdict, float(prefill), leaves, (first_ns - sent_ns) / 1e6)


def medians(found: Sequence[Stages]) -> Stages:
    columns = zip(*(asdict(one).values() for one in found), strict=True)
    return Stages(*(median(column) for column in columns))


class Client:
    """One client of one server, and the spans of its requests."""

    def __init__(self, client: httpx.Client, collector: Collector) -> None:
        self._client, self._collector = client, collector
        self._model = first_model(client)
        self.asked: dict[tuple[float, str], list[tuple[str, int, int]]] = {}  # trace, sent, first event
        self.health_ms: list[float] = []

    def ask(self, pause_s: float, mode: str, prompt: str) -> None:
        trace = secrets.token_hex(16)
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": MAX_TOKENS,
            "temperature": 0,
            "stream": True,
            "speculation": {"mode": mode},
        }
        headers = {"traceparent": f"00-{trace}-{secrets.token_hex(8)}-01"}
        sent_ns, first_ns = time.time_ns(), 0
        with self._client.stream("POST", "/v1/chat/completions", json=body, headers=headers) as response:
            response.raise_for_status()
            for _ in server_sent(response.iter_lines()):
                first_ns = first_ns or time.time_ns()
        self.asked.setdefault((pause_s, mode), []).append((trace, sent_ns, first_ns))

    def ask_for_health(self) -> None:
        began_s = time.perf_counter()
        self._client.get("/health").raise_for_status()
        self.health_ms.append(1e3 * (time.perf_counter() - began_s))

    def forget(self) -> None:
        """What was asked so far does not count."""
        self.asked.clear()
        self.health_ms.clear()

    def found(self) -> dict[tuple[float, str], Stages]:
        """Medians by pause and mode, once the spans of all requests have come; TimeoutError if some do not."""
        traces = {trace for asked in self.asked.values() for trace, _, _ in asked}
        until_s = time.monotonic() + SPANS_WITHIN_S
        while len({span.trace_id for span in self._collector.spans if is_last(span)} & traces) < len(traces):
            if time.monotonic() > until_s:
                raise TimeoutError(f"spans are missing {SPANS_WITHIN_S:g} s after the last request")
            time.sleep(0.1)
        time.sleep(2.0)  # the workers send theirs by themselves
        return {
            what: medians(
                [stages(sent, first, self._collector.of_trace(trace)) for trace, sent, first in asked]
            )
            for what, asked in self.asked.items()
        }


def is_last(span: Span) -> bool:
    """The span of the answer, which its orchestrator sends last."""
    return "adasd.session" in span.attributes


def measure(roots: Mapping[str, Path], pauses_s: Sequence[float], num_requests: int) -> dict[str, Any]:
    """By checkout: the stages by pause and mode, and /health."""
    prompts = [example.prompt for example in examples(NUM_PROMPTS)]
    with ExitStack() as stack:
        clients: dict[str, Client] = {}
        for name, root in roots.items():
            collector = stack.enter_context(collecting())
            server = stack.enter_context(demo_server({"traces": {"endpoint": collector.url}}, root))
            http = stack.enter_context(httpx.Client(base_url=server.url, timeout=60.0))
            clients[name] = Client(http, collector)
        for client in clients.values():
            for number in range(NUM_WARM):
                for mode in MODES:
                    client.ask(0.0, mode, prompts[number])
            client.forget()
        for pause_s in pauses_s:
            for number in range(num_requests):
                for mode in MODES:
                    for client in clients.values():
                        time.sleep(pause_s / len(clients))
                        client.ask(pause_s, mode, prompts[number % NUM_PROMPTS])
                for client in clients.values():
                    client.ask_for_health()
        return {name: (client.found(), median(client.health_ms)) for name, client in clients.items()}


def table(name: str, found: Mapping[tuple[float, str], Stages], health_ms: float) -> Table:
    shown = Table(
        "pause", "mode", "arrives", "slot", "verdict", "(prefill)", "leaves", "first token", "beyond prefill"
    )
    shown.title = f"first token, ms, {name}; /health {health_ms:.1f}"
    for (pause_s, mode), one in found.items():
        times = (
            one.arrives,
            one.slot,
            one.verdict,
            one.prefill,
            one.leaves,
            one.first_token,
            one.beyond_prefill,
        )
        shown.add_row(f"{pause_s:g} s", mode, *(f"{ms:.1f}" for ms in times))
    return shown


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m load_tests.latency.first_token", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--requests", type=positive, default=40, help="per mode and pause [40]")
    parser.add_argument("--pauses", type=float, nargs="+", default=[0.1, 3.0], help="seconds [0.1 3]")
    parser.add_argument(
        "--goal", type=float, default=10.0, metavar="MS", help="first token without prefill [10]"
    )
    parser.add_argument("--against", type=Path, metavar="DIR", help="another checkout")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args(arguments)
    header = record.circumstances("latency.first_token", arguments)
    print(record.headline(header))
    roots = {"this checkout": record.ROOT}
    if options.against:
        roots["the other checkout"] = options.against.resolve()
    written: dict[str, Any] = {}
    misses = False
    for name, (found, health_ms) in measure(roots, options.pauses, options.requests).items():
        record.console().print(table(name, found, health_ms))
        written[name] = {
            "health_ms": round(health_ms, 2),
            "stages_ms": [
                {"pause_s": pause_s, "mode": mode, **{part: round(ms, 2) for part, ms in asdict(one).items()}}
                for (pause_s, mode), one in found.items()
            ],
        }
        if name == "this checkout":
            misses = any(one.beyond_prefill > options.goal for one in found.values())
    if options.json:
        record.write(options.json, header, written)
    return int(misses)


if __name__ == "__main__":
    sys.exit(main())
