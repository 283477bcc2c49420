"""A real multi-node Ray cluster on this machine's loopback addresses, and the service on it, for fault injection.

The head at 127.0.0.1 has the gateway; every other node has its own address and pool. The service is started and
changed as in production: ``serve deploy`` of a configuration file that names ``cluster.entry:app``.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from cluster.runtime.ray_cluster import POD_ENVIRONMENT
from load_tests import record
from load_tests.faults.faulty_proxy import FaultyProxy
from load_tests.faults.small_disk import SmallDisk, can_mount, small_disk
from load_tests.free_ports import free_port

START_TIMEOUT_S = 240.0
START_TRIES = 3
COMMAND_TIMEOUT_S = 300.0
"""For a busy machine; on a free one a node starts in five seconds."""
RESTART_TRIES = 5
RESTART_PAUSE_S = 3.0
HEAD = "127.0.0.1"
HELD = (
    "vllm:num_requests_running",
    "adasd_worker_leases",
    "adasd_worker_sessions",
    "adasd_worker_streams",
    "adasd_worker_pending_calls",
)
"""Series that must be 0 when there are no requests."""


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """A Ray node on its own loopback address."""

    name: str
    ip: str
    pool: str


@dataclass
class LocalCluster:
    """The cluster and its service; all its processes have its temporary folder in their environment."""

    folder: Path
    nodes: Sequence[NodeSpec]
    link: FaultyProxy  # between the gateway and the workers
    disk: SmallDisk | None = None  # what ``folder`` is on; None where nobody may mount one
    ray_port: int = field(default_factory=free_port)
    dashboard_port: int = field(default_factory=free_port)
    http_port: int = field(default_factory=free_port)
    grpc_port: int = field(default_factory=free_port)

    @property
    def url(self) -> str:
        return f"http://{HEAD}:{self.http_port}"

    @property
    def environment(self) -> dict[str, str]:
        """Environment of every process: that of the pods, plus settings that detect lost nodes within seconds."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("ADASD_", "RAY_"))}
        return {
            **inherited,
            **POD_ENVIRONMENT,
            "LOAD_TEST_CLUSTER": str(self.folder),
            "TMPDIR": str(self.folder),
            "RAY_AUTH_MODE": "disabled",
            "PYTHONPATH": str(record.ROOT),  # replicas on every node import the project
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_failure_threshold": "5",
            "RAY_health_check_initial_delay_ms": "2000",
        }

    # ----------------------------------------------------------------- nodes

    def start(self) -> None:
        """The head, then every node. Several tries: on a busy machine Ray gives up waiting for its own processes."""
        for tries_left in reversed(range(START_TRIES)):
            try:
                return self._start()
            except (RuntimeError, subprocess.TimeoutExpired):
                self.stop()
                if not tries_left:
                    raise

    def _start(self) -> None:
        self._ray_start(
            "--head",
            f"--port={self.ray_port}",
            f"--node-ip-address={HEAD}",
            "--num-cpus=2",
            f"--dashboard-port={self.dashboard_port}",
            "--labels=pool=gateway",
            f"--temp-dir={self.folder}",
            grpc_proxy=f"http://{HEAD}:{self.link.port}",
        )
        for node in self.nodes:
            self.start_node(node)

    def start_node(self, node: NodeSpec) -> None:
        self._ray_start(
            f"--address={HEAD}:{self.ray_port}",
            f"--node-ip-address={node.ip}",
            "--num-cpus=2",
            f"--labels=pool={node.pool}",
        )

    def _ray_start(self, *arguments: str, **variables: str) -> None:
        command = [str(Path(sys.executable).with_name("ray")), "start", "--disable-usage-stats"]
        self._run([*command, "--object-store-memory=100000000", *arguments], variables)

    def _run(self, command: Sequence[str], variables: Mapping[str, str] | None = None) -> None:
        environment = {**self.environment, **(variables or {})}
        done = subprocess.run(
            command,
            cwd=record.ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_TIMEOUT_S,
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")

    def raylet(self, node: NodeSpec) -> list[int]:
        """The raylet's process id, if it is alive."""
        mark = f"--node_ip_address={node.ip} "
        return [pid for pid, c in self.processes().items() if "raylet/raylet" in c and mark in c + " "]

    def restart_if_dead(self, *nodes: NodeSpec) -> None:
        """Several tries: another fault, such as a full disk, may keep a node from starting. RuntimeError in the end."""
        for node in nodes:
            for tries_left in reversed(range(RESTART_TRIES)):
                if self.raylet(node):
                    break
                try:
                    self.start_node(node)
                except RuntimeError:
                    if not tries_left:
                        raise
                    time.sleep(RESTART_PAUSE_S)

    # ----------------------------------------------------------------- service

    def deploy(self, settings: Mapping[str, Any]) -> None:
        """``serve deploy`` of these settings; returns once Serve has accepted them, before they take effect."""
        file = self.folder / "deployed.yaml"
        file.write_text(yaml.safe_dump(self.serve_config(settings)))
        serve = str(Path(sys.executable).with_name("serve"))
        self._run([serve, "deploy", "--address", f"http://{HEAD}:{self.dashboard_port}", str(file)])

    def serve_config(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The file for ``serve deploy``."""
        args = {"port": self.http_port, "grpc_port": self.grpc_port, "host": HEAD, **settings}
        app = {"name": "adasd", "route_prefix": "/", "import_path": "cluster.entry:app", "args": args}
        return {
            "proxy_location": "HeadOnly",
            "http_options": {"host": HEAD, "port": self.http_port},
            "applications": [app],
        }

    def wait_until_ready(self) -> float:
        """Seconds until both tiers serve."""
        return wait_for(self.is_ready, START_TIMEOUT_S, "the service to become ready", self.why_not_ready)

    def is_ready(self) -> bool:
        with suppress(httpx.HTTPError, ValueError):
            answer = httpx.get(f"{self.url}/ready", timeout=5.0)
            return answer.status_code == 200 and not answer.json()["degraded"]
        return False

    def why_not_ready(self) -> str:
        with suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/ready", timeout=5.0).text
        return f"{self.url} does not answer; logs are below {self.folder}"

    def is_idle(self) -> bool:
        return not any(self.held().values())

    def metrics(self) -> str:
        return httpx.get(f"{self.url}/metrics", timeout=10.0).text

    def held(self) -> dict[str, float]:
        """What the service holds: running answers, leases, slots, streams, calls."""
        text = self.metrics()
        return {name: sum(values(text, name)) for name in HELD}

    def replicas(self, deployment: str) -> list[int]:
        """Process ids of a deployment's replicas."""
        mark = f"ServeReplica:adasd:{deployment}"
        return [pid for pid, command in self.processes().items() if mark in command]

    def host_of(self, pid: int) -> str:
        """Address of the node that a replica runs on."""
        command = Path(f"/proc/{os_parent(pid)}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        found = re.search(r"--node_ip_address=(\S+)", command)
        return found.group(1) if found else HEAD

    # ----------------------------------------------------------------- processes

    def processes(self) -> dict[int, str]:
        """Process id -> command line, for all processes of this cluster."""
        mark = f"LOAD_TEST_CLUSTER={self.folder}".encode()
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with suppress(OSError):
                    if mark in (entry / "environ").read_bytes().split(b"\0"):
                        command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                        found[int(entry.name)] = command
        return {pid: command for pid, command in found.items() if command}

    def stop(self) -> None:
        """Kill everything."""
        for _ in range(3):
            for pid in self.processes():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.2)


@contextmanager
def local_cluster(nodes: Sequence[NodeSpec], settings: Mapping[str, Any]) -> Iterator[LocalCluster]:
    """A running cluster that serves ``settings``; all its processes are killed at the end.

    If LOAD_TEST_KEEP is set in the environment, its folder with the logs is kept.
    """
    folder = Path(tempfile.mkdtemp(prefix="cluster-"))  # short: socket paths hold 107 bytes
    with FaultyProxy() as link, ended_by_sigterm(), ExitStack() as stack:
        keep = "LOAD_TEST_KEEP" in os.environ  # a disk of its own would be gone
        if not keep:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        disk = stack.enter_context(small_disk(folder)) if can_mount() and not keep else None
        made = LocalCluster(folder, nodes, link, disk)
        try:
            made.start()
            made.deploy(settings)
            made.wait_until_ready()
            yield made
        finally:
            made.stop()
            if keep:
                print(f"logs are below {folder}")


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Raise on SIGTERM, so that stopping this process also cleans up the cluster."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def values(metrics: str, name: str, role: str | None = None) -> list[float]:
    """The values of all series with that name in a scrape, or of those of one role."""
    pattern = rf"^{re.escape(name)}(?:\{{([^}}]*)\}})? ([0-9.e+-]+)$"
    found = re.findall(pattern, metrics, re.MULTILINE)
    return [float(value) for labels, value in found if role is None or f'role="{role}"' in labels]


def os_parent(pid: int) -> int:
    """Process id of the parent."""
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def wait_for(condition: Callable[[], bool], timeout_s: float, what: str, state: Callable[[], str]) -> float:
    """Wait for the condition; returns the seconds, or raises RuntimeError with the state after the timeout."""
    begun_s = time.monotonic()
    while not condition():
        if time.monotonic() - begun_s > timeout_s:
            raise RuntimeError(f"waited {timeout_s:g} s for {what}; at the end: {state()}")
        time.sleep(0.3)
    return time.monotonic() - begun_s
