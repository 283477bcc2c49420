"""``adasd k8s rehearse``: play a topology's cluster on this machine, with a roll-out under load.

Every pod of the manifest becomes a Ray node on a loopback address, with its group's labels, resources and
environment; ``serve deploy`` gets the manifest's own serveConfigV2. What this machine cannot have is replaced and
nothing else: weights by the demo pair, CUDA by the CPU (cards are counted, not used), ports by free ones, the time
that requests may wait for a slot by one that suits a slow machine. Then traffic over HTTP and gRPC, a changed
configuration rolled out under load, and the end. What it does not show:
KubeRay itself, its autoscaler, network policies, images, cards.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml
from rich.console import Console

from adasd.errors import AdasdError, ConfigError
from cluster.data import BASE, DEMO
from cluster.entry import read
from cluster.k8s import facts as cluster_facts
from cluster.k8s.render import render
from cluster.runtime.steps import Steps
from cluster.topology import actor_options
from load_tests import record
from load_tests.demo_prompts import is_right
from load_tests.faults.faulty_proxy import FaultyProxy
from load_tests.faults.local_cluster import HEAD, LocalCluster, ended_by_sigterm, values, wait_for
from load_tests.load.answers import GOOD, Outcome, Reply
from load_tests.load.doors import Door, GrpcClient, HttpClient
from load_tests.load.generator import Generator
from load_tests.load.load_figures import worded_differently
from load_tests.load.request_mix import whole

TWO_TIER = record.ROOT / "k8s" / "overlays" / "two-tier"
MAX_PODS = 8
NUM_CLIENTS = 2  # so few that no tier wants a second replica, for which there is no node
PATIENCE_S = 180.0
"""How long requests wait while the only target is replaced; starting one on a busy machine takes a minute."""
TRAFFIC_S = 8.0
ROLLED_OUT_WITHIN_S = 240.0
FILES = ("api_keys_file", "worker_tls")
"""Settings that name files of a Secret, which only Kubernetes has."""
OF_THE_POD = ("HOME", "HF_HOME")
"""Variables that refer to a pod's file system."""


class RehearsalFailed(AdasdError):
    """The cluster does not work; one sentence per problem."""


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod of a worker group as a Ray node."""

    name: str
    group: str
    ip: str
    labels: Mapping[str, str]
    resources: Mapping[str, str]  # Ray's, including CPU and GPU


@dataclass(frozen=True, slots=True)
class ClusterShape:
    """The parts of a manifest that are rehearsed."""

    serve: Mapping[str, Any]  # serveConfigV2
    pods: tuple[Pod, ...]
    head_resources: Mapping[str, str]
    environment: Mapping[str, str]  # of the Ray containers

    @property
    def args(self) -> Mapping[str, Any]:
        """The application's settings."""
        return self.serve["applications"][0]["args"]  # type: ignore[no-any-return]


def shape_of(topology: Path, cluster: Path | None = None) -> ClusterShape:
    """The result of ``adasd k8s render`` for these files. ConfigError with one sentence per problem."""
    overlay = render(topology, cluster_facts.read(cluster), topology.parent)
    operations = yaml.safe_load(overlay.files["ray-service.patch.yaml"])
    patched = {operation["path"].rsplit("/", 1)[-1]: operation["value"] for operation in operations}
    base = yaml.safe_load((BASE / "ray-service.yaml").read_text(encoding="utf-8"))
    serve = yaml.safe_load(patched["serveConfigV2"])
    if named := [name for name in FILES if name in serve["applications"][0]["args"]]:
        raise ConfigError(
            f"{topology} has {named[0]}, whose files come from a Secret; rehearse a topology without it"
        )
    pods = tuple(_pods(patched["workerGroupSpecs"]))
    if len(pods) > MAX_PODS:
        raise ConfigError(f"{topology} begins with {len(pods)} pods; a rehearsal has room for {MAX_PODS}")
    variables = patched["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["env"]
    environment = {v["name"]: v["value"] for v in variables if "value" in v and v["name"] not in OF_THE_POD}
    head = base["spec"]["rayClusterConfig"]["headGroupSpec"]["resources"]
    return ClusterShape(serve, pods, head, environment)


def _pods(groups: Sequence[Mapping[str, Any]]) -> Iterator[Pod]:
    """Each group's minimum of pods, or one if that is 0, which Ray's autoscaler would add."""
    last = 1
    for group in groups:
        for number in range(max(1, group["minReplicas"])):
            last += 1
            name = f"{group['groupName']}-{number}"
            yield Pod(name, group["groupName"], f"127.0.0.{last}", group["labels"], group["resources"])


def on_this_machine(serve: Mapping[str, Any], http_port: int, grpc_port: int) -> dict[str, Any]:
    """The same configuration with the demo pair on the CPU, and free ports."""
    replaced: dict[str, Any] = json.loads(json.dumps(serve))
    replaced["http_options"]["port"] = http_port
    args = replaced["applications"][0]["args"]
    args |= {"port": http_port, "grpc_port": grpc_port, "admission_timeout_s": PATIENCE_S}
    config = read(serve["applications"][0]["args"], {})
    deployments = {
        deployment["name"]: deployment for deployment in replaced["applications"][0]["deployments"]
    }
    for role, tier in (("target", config.target), ("draft", config.draft)):
        if isinstance(args.get(role), dict) and tier is not None:
            args[role] |= {"model": str(DEMO / role), "device": "cpu"}
            args[role].pop("num_gpus", None)  # invalid for a model on the CPU; its replica reserves them
            deployments[role]["ray_actor_options"] = actor_options(tier)
    return replaced


@dataclass
class Play(LocalCluster):
    """A running cluster of this shape."""

    shape: ClusterShape = field(kw_only=True)

    @property
    def environment(self) -> dict[str, str]:
        """The pods' own variables take precedence; timeouts are longer, since all nodes share this machine."""
        return {**super().environment, **self.shape.environment, "RAY_raylet_start_wait_time_s": "90"}

    def start(self) -> None:
        """Start the head, which runs no replica, then every pod."""
        self._ray_start(
            "--head",
            f"--port={self.ray_port}",
            f"--node-ip-address={HEAD}",
            f"--num-cpus={self.shape.head_resources['CPU']}",
            f"--dashboard-port={self.dashboard_port}",
            f"--temp-dir={self.folder}",
        )
        for (
            pod
        ) in self.shape.pods:  # one by one: nodes started together on one machine take each other's ports
            self.start_pod(pod)

    def start_pod(self, pod: Pod) -> None:
        own = {name: float(n) for name, n in pod.resources.items() if name not in ("CPU", "GPU")}
        self._ray_start(
            f"--address={HEAD}:{self.ray_port}",
            f"--node-ip-address={pod.ip}",
            f"--num-cpus={pod.resources['CPU']}",
            f"--num-gpus={pod.resources.get('GPU', 0)}",
            f"--resources={json.dumps(own)}",
            f"--labels={','.join(f'{key}={value}' for key, value in pod.labels.items())}",
        )

    def serve_config(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """serveConfigV2 with ``settings`` in place of its own arguments."""
        serve = json.loads(json.dumps(self.shape.serve))
        serve["applications"][0]["args"] |= settings
        return on_this_machine(serve, self.http_port, self.grpc_port)

    def close_service(self) -> None:
        """``serve shutdown``: removes the application; the cluster keeps running."""
        serve = str(Path(sys.executable).with_name("serve"))
        self._run([serve, "shutdown", "--yes", "--address", f"http://{HEAD}:{self.dashboard_port}"])

    def misplaced(self) -> list[str]:
        """Replicas that are not on a pod of their pool."""
        found = []
        for role in ("target", "draft", "orchestrator"):
            args = self.shape.args.get(role, {}) if role != "orchestrator" else {}
            wanted = args.get("label_selector", {"pool": "gateway"})
            allowed = {p.ip for p in self.shape.pods if wanted.items() <= dict(p.labels).items()}
            for pid in self.replicas(role):
                if (host := self.host_of(pid)) not in allowed:
                    found.append(f"a replica of {role} is on {host}, not on a node with {wanted}")
        return found

    def is_rolled_out(self, num_slots: int) -> bool:
        """Whether every reporting target has the new number of slots, and Serve reports the application as running."""
        try:
            reported = values(self.metrics(), "adasd_worker_slots", "target")
        except httpx.HTTPError:
            return False
        return self.serve_status() == "RUNNING" and set(reported) == {float(num_slots)}

    def is_ready(self) -> bool:
        """As for every local cluster, but does not wait for a deployment that Serve has given up."""
        self.serve_status()
        return super().is_ready()

    def serve_status(self) -> str | None:
        """Serve's status of the application, None before it has one; RehearsalFailed with the reason if it failed."""
        try:
            answer = httpx.get(f"http://{HEAD}:{self.dashboard_port}/api/serve/applications/", timeout=10.0)
            app = answer.json()["applications"]["adasd"]
        except (httpx.HTTPError, ValueError, LookupError):
            return None
        if app["status"] in ("DEPLOY_FAILED", "UNHEALTHY"):
            lines = [line for line in app["message"].splitlines() if line.strip()] or ["it gives no reason"]
            raise RehearsalFailed(f"Serve says {app['status']}: {lines[-1]}")
        return str(app["status"])


@contextmanager
def playing(shape: ClusterShape) -> Iterator[Play]:
    """The cluster without an application; all its processes are killed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="play-"))  # short: socket paths hold 107 bytes
    with FaultyProxy() as link, ended_by_sigterm():
        play = Play(folder, (), link, shape=shape)
        try:
            play.start()
            yield play
        finally:
            play.stop()
            shutil.rmtree(folder, ignore_errors=True)


# --------------------------------------------------------------------------- traffic


async def traffic(play: Play, seconds: float) -> list[Reply]:
    """A closed loop over HTTP and gRPC."""
    return await _load(play, None, seconds)


async def rollout(play: Play, settings: Mapping[str, Any], num_slots: int) -> list[Reply]:
    """Clients keep sending requests while ``settings`` are deployed, until they take effect."""
    return await _load(play, (settings, num_slots), 0.0)


async def _load(play: Play, change: tuple[Mapping[str, Any], int] | None, seconds: float) -> list[Reply]:
    zero_s = time.monotonic()

    def now() -> float:
        return time.monotonic() - zero_s

    doors: dict[str, Door] = {
        "http": HttpClient(play.url, None, now),
        "grpc": GrpcClient(f"{HEAD}:{play.grpc_port}", None, now),
    }
    generator, done = Generator(doors, now), asyncio.Event()
    try:
        load = asyncio.ensure_future(
            generator.closed_loop("load", NUM_CLIENTS, whole(), still=lambda: not done.is_set())
        )
        if change is None:
            await asyncio.sleep(seconds)
        else:
            settings, num_slots = change
            await asyncio.to_thread(play.deploy, settings)
            await asyncio.to_thread(
                wait_for,
                lambda: play.is_rolled_out(num_slots),
                ROLLED_OUT_WITHIN_S,
                "the changed configuration",
                play.why_not_ready,
            )
        done.set()
        await load
    finally:
        done.set()
        await generator.close()
        for door in doors.values():
            await door.close()
    return generator.answers


def complaints(what: str, answers: Sequence[Reply]) -> Iterator[str]:
    """Sentences about failures."""
    bad = [answer for answer in answers if answer.outcome not in GOOD]
    if bad:
        yield f"{len(bad)} of {len(answers)} requests failed {what}; the first over {bad[0].door}: {bad[0].error}"
    if missing := {"http", "grpc"} - {answer.door for answer in answers if answer.outcome is Outcome.DONE}:
        yield f"nothing was answered over {' and '.join(sorted(missing))} {what}"
    if changed := worded_differently(answers):
        yield f"{len(changed)} prompts got different texts {what}, although exact and greedy"
    wrong = sum(not is_right(a.ask.example, a.text) for a in answers if a.ask.example and a.text)
    if wrong > 0.2 * len(answers):
        yield f"{wrong} of {len(answers)} answers {what} are wrong"


# --------------------------------------------------------------------------- the whole rehearsal


def main(argv: Sequence[str]) -> int:
    """Entry point; returns 0 if the cluster works, 1 if not, 2 if the files are invalid."""
    parser = argparse.ArgumentParser(prog="adasd k8s rehearse", description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    default, beside = TWO_TIER / "topology.yaml", "[cluster.yaml beside it, if there is one]"
    parser.add_argument("--topology", type=Path, default=default, metavar="FILE", help="[two-tier's]")
    parser.add_argument("--cluster", type=Path, metavar="FILE", help=beside)
    arguments = parser.parse_args(argv)
    near = arguments.topology.parent / "cluster.yaml"
    try:
        rehearse(arguments.topology, arguments.cluster or (near if near.is_file() else None), Console())
    except AdasdError as error:
        for sentence in str(error).splitlines():
            print(f"adasd k8s rehearse: {sentence}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    return 0


def rehearse(topology: Path, cluster: Path | None, console: Console) -> None:
    """The whole rehearsal, one line per step. RehearsalFailed if something fails, ConfigError for bad input."""
    shape = shape_of(topology, cluster)
    with Steps(console) as steps:
        steps.show("nodes", f"starting a head and {', '.join(pod.name for pod in shape.pods)}")
        try:
            with playing(shape) as play:
                steps.show("nodes", f"a head and {', '.join(pod.name for pod in shape.pods)}", done=True)
                _act(play, steps)
        except RuntimeError as error:  # from the cluster: a command failed or timed out
            what, _, last = str(error).strip().rpartition("\n")
            raise RehearsalFailed(f"{what.split(': ')[0]}: {last}" if what else last) from error
        steps.show("end", f"taken down; {len(play.processes())} processes left", done=True)
        if left := play.processes():
            raise RehearsalFailed(f"processes are left: {sorted(left)}")


def _act(play: Play, steps: Steps) -> None:
    steps.show("serve deploy", "the manifest's serveConfigV2")
    play.deploy({})
    play.wait_until_ready()
    if misplaced := play.misplaced():
        raise RehearsalFailed("\n".join(misplaced))
    placed = ", ".join(f"{len(play.replicas(r))} {r}" for r in ("orchestrator", "target", "draft"))
    steps.show("serve deploy", f"ready: {placed}, each in its pool", done=True)
    steps.show("traffic", "over HTTP and gRPC")
    answers = asyncio.run(traffic(play, TRAFFIC_S))
    _check("in calm", answers)
    steps.show("traffic", f"{len(answers)} answers over HTTP and gRPC, none failed", done=True)
    target = dict(play.shape.args["target"])
    before = target.get("num_slots", 32)
    steps.show("roll-out", f"target.num_slots {before} -> {before + 1} under load")
    answers = asyncio.run(rollout(play, {"target": {**target, "num_slots": before + 1}}, before + 1))
    _check("during the roll-out", answers)
    slots = f"target.num_slots {before} -> {before + 1}"
    steps.show("roll-out", f"{slots} during {len(answers)} answers, none failed", done=True)
    wait_for(play.is_idle, 30.0, "the service to give everything back", lambda: str(play.held()))
    steps.show("serve shutdown", "")
    play.close_service()
    wait_for(
        lambda: not play.replicas("target") + play.replicas("orchestrator"),
        60.0,
        "the replicas to end",
        lambda: f"target {play.replicas('target')}, orchestrator {play.replicas('orchestrator')}",
    )
    steps.show("serve shutdown", "no replica is left", done=True)


def _check(what: str, answers: Sequence[Reply]) -> None:
    if found := list(complaints(what, answers)):
        raise RehearsalFailed("\n".join(found))
