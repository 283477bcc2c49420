"""Does anybody notice? Requests under load while replicas, nodes and the Serve controller are killed.

A real multi-node Ray cluster on loopback addresses (a head with the gateway, a node for drafts, two for targets),
the real ``adasd serve --address``, HTTP clients. Every answer must equal the one given before the first kill;
afterwards nothing may be left behind.

    python -m load_tests.chaos --requests 300 --concurrency 16
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import yaml

from load_tests import record
from load_tests.prompts import examples

ROOT = Path(__file__).resolve().parents[1]
START_TIMEOUT_S = 240.0
HELD = (
    "vllm:num_requests_running",
    "adasd_worker_leases",
    "adasd_worker_sessions",
    "adasd_worker_pending_calls",
)
IDLE_TIMEOUT_S = 150.0
VICTIMS = ("draft replica", "target replica", "draft node", "target node", "controller")


@dataclass(slots=True)
class Outcome:
    """One request: its text, or why there is none; seconds."""

    key: int
    text: str | None
    error: str | None
    first_s: float | None
    total_s: float
    began_s: float


@dataclass(slots=True)
class Kill:
    """One blow: what was killed, and when (seconds since the load began)."""

    victim: str
    at_s: float


@dataclass
class NodeSpec:
    """A Ray node of its own on a loopback address."""

    name: str
    ip: str
    pool: str


NODES = (
    NodeSpec("draft-0", "127.0.0.2", "draft"),
    NodeSpec("target-0", "127.0.0.3", "target"),
    NodeSpec("target-1", "127.0.0.4", "target"),
)


@dataclass
class Rig:
    """The cluster and the service on it; all its processes carry the rig's temporary folder."""

    folder: Path
    ray_port: int
    http_port: int
    grpc_port: int
    environment: dict[str, str]
    serve: subprocess.Popen[bytes] | None = None
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    # ----------------------------------------------------------------- nodes

    def start_head(self) -> None:
        self._ray_start(
            "--head",
            f"--port={self.ray_port}",
            "--node-ip-address=127.0.0.1",
            "--num-cpus=2",
            "--include-dashboard=false",
            "--labels=pool=gateway",
            f"--temp-dir={self.folder}",
        )

    def start_node(self, node: NodeSpec) -> None:
        self._ray_start(
            f"--address=127.0.0.1:{self.ray_port}",
            f"--node-ip-address={node.ip}",
            "--num-cpus=2",
            f"--labels=pool={node.pool}",
        )

    def _ray_start(self, *arguments: str) -> None:
        command = [
            str(Path(sys.executable).with_name("ray")),
            "start",
            "--disable-usage-stats",
            "--object-store-memory=100000000",
            *arguments,
        ]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")

    def raylet(self, node: NodeSpec) -> list[int]:
        return [
            pid
            for pid, command in self.processes().items()
            if "raylet/raylet" in command and f"--node_ip_address={node.ip} " in command + " "
        ]

    # ----------------------------------------------------------------- service

    def serve_pair(self, target: Path, draft: Path, num_slots: int) -> None:
        placed = {"num_slots": num_slots, "num_cpus": 0.5}
        config = {
            "port": self.http_port,
            "grpc_port": self.grpc_port,
            "host": "0.0.0.0",
            "model_name": "pair",
            "target": {
                "model": str(target),
                "min_replicas": 2,
                "max_replicas": 2,
                "label_selector": {"pool": "target"},
                **placed,
            },
            "draft": {"model": str(draft), "label_selector": {"pool": "draft"}, **placed},
            "orchestrator": {"label_selector": {"pool": "gateway"}, "proxies": "HeadOnly"},
            "verify_timeout_s": 20.0,
            "admission_timeout_s": 90.0,
            "draft_timeout_s": 1.0,
        }
        file = self.folder / "config.yaml"
        file.write_text(yaml.safe_dump(config))
        address = f"127.0.0.1:{self.ray_port}"
        command = [sys.executable, "-m", "cluster.cli", "serve", "--config", str(file), "--address", address]
        with (self.folder / "serve.txt").open("wb") as output:
            self.serve = subprocess.Popen(
                command,
                cwd=ROOT,
                env=self.environment,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        wait_for(self.is_ready, START_TIMEOUT_S, "the service to become ready", lambda: self.output()[-2000:])

    def output(self) -> str:
        return (self.folder / "serve.txt").read_text(errors="replace")

    def is_ready(self) -> bool:
        assert self.serve is not None
        if self.serve.poll() is not None:
            raise RuntimeError(f"adasd serve ended with {self.serve.returncode}: {self.output()[-2000:]}")
        with suppress(httpx.HTTPError):
            answer = httpx.get(f"{self.url}/ready", timeout=5.0)
            return answer.status_code == 200 and not answer.json()["degraded"]
        return False

    def is_idle(self) -> bool:
        return not any(leftovers(self.url).values())

    def replicas(self, deployment: str) -> list[int]:
        mark = f"ServeReplica:adasd:{deployment}"
        return [pid for pid, command in self.processes().items() if mark in command]

    # ----------------------------------------------------------------- processes

    def processes(self) -> dict[int, str]:
        """Command lines by process id of everything that was started here."""
        mark = f"CHAOS_RIG={self.folder}".encode()
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError):
                    if mark in (entry / "environ").read_bytes().split(b"\0"):
                        command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                        found[int(entry.name)] = command
        return {pid: command for pid, command in found.items() if command}

    def kill(self, victim: str, rng: random.Random) -> bool:
        """Kill -9 one of a kind; False if there is none alive. A killed node is started again by the caller."""
        match victim:
            case "draft replica" | "target replica":
                pids = self.replicas(victim.split()[0])
            case "controller":
                pids = [pid for pid, c in self.processes().items() if "ServeController" in c]
            case _:
                node = rng.choice([n for n in NODES if n.pool == victim.split()[0]])
                pids = self.raylet(node)
        if not pids:
            return False
        with suppress(ProcessLookupError):
            os.kill(rng.choice(pids), signal.SIGKILL)
        return True

    def restart_dead_nodes(self) -> None:
        for node in NODES:
            if not self.raylet(node):
                self.start_node(node)

    def stop(self) -> None:
        if self.serve is not None and self.serve.poll() is None:
            os.killpg(self.serve.pid, signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                self.serve.wait(20.0)
        for _ in range(3):
            for pid in self.processes():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.2)
        if self.serve is not None:
            self.serve.wait()


@contextmanager
def rig(target: Path, draft: Path, num_slots: int) -> Iterator[Rig]:
    """A running cluster with the pair on it; everything is killed in the end."""
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("ADASD_", "RAY_"))}
    environment = {
        **inherited,
        "CHAOS_RIG": str(folder),
        "TMPDIR": str(folder),
        "RAY_AUTH_MODE": "disabled",
        "PYTHONPATH": str(ROOT),  # replicas on every node import the project
        "RAY_SERVE_MAX_PER_REPLICA_RETRY_COUNT": "20",  # Serve gives a deployment up after 3 starts cut short by kills
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_failure_threshold": "5",
        "RAY_health_check_initial_delay_ms": "2000",
    }
    made = Rig(folder, free_port(), free_port(), free_port(), environment)
    try:
        made.start_head()
        for node in NODES:
            made.start_node(node)
        made.serve_pair(target, draft, num_slots)
        yield made
    finally:
        made.stop()
        if "CHAOS_KEEP" not in os.environ:  # the logs
            shutil.rmtree(folder, ignore_errors=True)


# --------------------------------------------------------------------------- load


@dataclass(frozen=True, slots=True)
class Work:
    """The requests: each key is one body, asked again and again."""

    bodies: tuple[dict[str, Any], ...]


def work(num_distinct: int, max_tokens: int) -> Work:
    """Greedy and seeded requests in turn, exact."""
    bodies = []
    for number, example in enumerate(examples(num_distinct)):
        sampling = {"temperature": 0} if number % 2 else {"temperature": 0.8, "seed": 1000 + number}
        bodies.append(
            {
                "messages": [{"role": "user", "content": example.prompt}],
                "max_tokens": max_tokens,
                "stream": True,
                "speculation": {"mode": "exact"},
                **sampling,
            }
        )
    return Work(tuple(bodies))


async def ask(client: httpx.AsyncClient, url: str, key: int, body: dict[str, Any], zero_s: float) -> Outcome:
    """One streamed answer."""
    began_s, first_s, text = time.monotonic(), None, ""
    error: str | None = None
    try:
        async with client.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
            if response.status_code != 200:
                error = f"{response.status_code}: {(await response.aread()).decode()[:300]}"
            else:
                async for line in response.aiter_lines():
                    if not line.startswith("data: {"):
                        continue
                    event = json.loads(line[6:])
                    if "error" in event:
                        error = json.dumps(event["error"])
                    for choice in event.get("choices", ()):
                        first_s = first_s or time.monotonic() - began_s
                        text += choice["delta"].get("content") or ""
                if not line_is_done(line):
                    error = error or "the stream ended without [DONE]"
    except httpx.HTTPError as problem:
        error = f"{type(problem).__name__}: {problem}"
    total_s = time.monotonic() - began_s
    return Outcome(key, None if error else text, error, first_s, total_s, began_s - zero_s)


def line_is_done(line: str) -> bool:
    return not line or line == "data: [DONE]"


async def load(
    url: str, todo: Work, num_requests: int, concurrency: int, on_done: Callable[[int], None]
) -> list[Outcome]:
    """Closed loop: ``concurrency`` clients, ``num_requests`` requests in all."""
    keys = iter([number % len(todo.bodies) for number in range(num_requests)])
    outcomes: list[Outcome] = []
    zero_s = time.monotonic()
    limits = httpx.Limits(max_connections=concurrency)
    async with httpx.AsyncClient(timeout=httpx.Timeout(180.0), limits=limits) as client:

        async def one_client() -> None:
            for key in keys:
                outcomes.append(await ask(client, url, key, todo.bodies[key], zero_s))
                on_done(len(outcomes))

        await asyncio.gather(*(one_client() for _ in range(concurrency)))
    return outcomes


async def storm(
    target: Rig,
    todo: Work,
    num_requests: int,
    concurrency: int,
    every_s: float,
    seed: int,
    victims: tuple[str, ...] = VICTIMS,
) -> tuple[list[Outcome], list[Kill]]:
    """The load with a kill every ``every_s`` seconds, each kind of victim in turn, then at random."""
    rng, kills, zero_s = random.Random(seed), list[Kill](), time.monotonic()
    calm = asyncio.Event()

    async def strike() -> None:
        order = list(victims)
        rng.shuffle(order)
        while not calm.is_set():
            victim = order.pop() if order else rng.choice(victims)
            if await asyncio.to_thread(target.kill, victim, rng):
                kills.append(Kill(victim, time.monotonic() - zero_s))
            with suppress(TimeoutError):
                await asyncio.wait_for(calm.wait(), every_s)
            await asyncio.to_thread(target.restart_dead_nodes)

    striking = asyncio.create_task(strike())
    try:
        outcomes = await load(target.url, todo, num_requests, concurrency, lambda _: None)
    finally:
        calm.set()
        await striking
    return outcomes, kills


# --------------------------------------------------------------------------- verdict


def figures(before: list[Outcome], outcomes: list[Outcome], kills: list[Kill]) -> dict[str, Any]:
    """What is reported; ``wrong`` and ``failed`` must be empty."""
    expected = {outcome.key: outcome.text for outcome in before}
    target_kills = [kill.at_s for kill in kills if kill.victim.startswith("target")]
    after_kill = [
        outcome.first_s
        for outcome in outcomes
        if outcome.first_s is not None and any(at <= outcome.began_s <= at + 3.0 for at in target_kills)
    ]
    firsts = sorted(outcome.first_s for outcome in outcomes if outcome.first_s is not None)
    totals = sorted(outcome.total_s for outcome in outcomes)
    return {
        "requests": len(outcomes),
        "failed": [asdict(outcome) for outcome in outcomes if outcome.error],
        "wrong": [
            {"key": o.key, "got": o.text, "expected": expected[o.key]}
            for o in outcomes
            if not o.error and o.text != expected[o.key]
        ],
        "kills": [asdict(kill) for kill in kills],
        "first_token_s": {"median": median(firsts), "max": firsts[-1]} if firsts else None,
        "first_token_after_target_kill_s": {"median": median(after_kill), "max": max(after_kill)}
        if after_kill
        else None,
        "answer_s": {"median": median(totals), "max": totals[-1]},
    }


def leftovers(url: str) -> dict[str, float]:
    """What the service still holds: running answers, leases, slots, calls; all must be 0 when it is idle."""
    text = httpx.get(f"{url}/metrics", timeout=10.0).text
    held: dict[str, float] = {}
    for name in (
        "vllm:num_requests_running",
        "adasd_worker_leases",
        "adasd_worker_sessions",
        "adasd_worker_pending_calls",
    ):
        values = re.findall(rf"^{re.escape(name)}(?:{{[^}}]*}})? ([0-9.e+-]+)$", text, re.MULTILINE)
        held[name] = sum(map(float, values))
    return held


def run(
    target: Path,
    draft: Path,
    num_requests: int,
    concurrency: int,
    every_s: float,
    seed: int,
    max_tokens: int,
    victims: tuple[str, ...] = VICTIMS,
) -> dict[str, Any]:
    """The whole experiment on a cluster of its own."""
    todo = work(num_distinct=min(30, num_requests), max_tokens=max_tokens)
    with rig(target, draft, num_slots=2 * concurrency) as made:
        before = asyncio.run(load(made.url, todo, len(todo.bodies), 4, lambda _: None))
        if problems := [outcome.error for outcome in before if outcome.error]:
            raise RuntimeError(f"requests failed before the first kill: {problems[:3]}")
        outcomes, kills = asyncio.run(storm(made, todo, num_requests, concurrency, every_s, seed, victims))
        found = figures(before, outcomes, kills)
        begun_s = time.monotonic()
        while time.monotonic() - begun_s < IDLE_TIMEOUT_S and not (made.is_ready() and made.is_idle()):
            time.sleep(0.5)
        state = httpx.get(f"{made.url}/ready", timeout=60.0).json()
        return {
            **found,
            "leftovers": leftovers(made.url),
            "ready": state,
            "idle_after_s": time.monotonic() - begun_s,
        }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(condition: Callable[[], bool], timeout_s: float, what: str, state: Callable[[], str]) -> float:
    """Seconds until the condition held; RuntimeError with the state if it never did."""
    begun_s = time.monotonic()
    while not condition():
        if time.monotonic() - begun_s > timeout_s:
            raise RuntimeError(f"waited {timeout_s:g} s for {what}; at the end: {state()}")
        time.sleep(0.3)
    return time.monotonic() - begun_s


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", type=Path, default=ROOT / "models/demo/target")
    parser.add_argument("--draft", type=Path, default=ROOT / "models/demo/draft")
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--every", type=float, default=8.0, help="seconds between kills")
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--victims", nargs="+", choices=VICTIMS, default=VICTIMS)
    parser.add_argument("--json", type=Path, help="write figures here")
    given = parser.parse_args(arguments)
    header = record.circumstances("chaos", sys.argv[1:] if arguments is None else arguments)
    found = run(
        given.target,
        given.draft,
        given.requests,
        given.concurrency,
        given.every,
        given.seed,
        given.max_tokens,
        tuple(given.victims),
    )
    console = record.console()
    console.print(record.headline(header))
    console.print_json(json.dumps(found))
    if given.json:
        record.write(given.json, header, found)
    recovered = found["ready"]["ready"] and not found["ready"]["degraded"]
    clean = not (found["failed"] or found["wrong"] or any(found["leftovers"].values()))
    return 0 if clean and recovered else 1


if __name__ == "__main__":
    sys.exit(main())
