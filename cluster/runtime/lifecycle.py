"""``adasd serve``: starts everything, reports when the service is ready, and stops everything again."""

from __future__ import annotations

import logging
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, cast

import httpx
from rich.console import Console
from rich.markup import escape

from adasd.errors import AdasdError, ConfigError
from cluster import topology
from cluster.runtime.deadline import within
from cluster.runtime.preflight import absent_folders, problems
from cluster.runtime.ray_cluster import RayLost, StartFailed, lost_helpers, nodes, ray_cluster
from cluster.runtime.steps import Steps
from cluster.runtime.supervisor import LOST, in_child, supervise
from cluster.runtime.welcome import url, welcome
from services.config import ServeConfig
from services.observability.disk import shortage

APP_NAME = "adasd"
POLL_S = 0.3
WATCH_S = 1.0
STATE_TIMEOUT_S = 10.0
"""Timeout for Serve's status; an unreachable Serve never answers."""
NUM_TRIES = 5
TAKE_DOWN_S = 30.0
"""In addition to the longest answer."""


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """How ``adasd serve`` runs Ray; ServeConfig says what is served."""

    address: str | None = None  # of a running Ray cluster; None: start our own
    dashboard: bool = False
    start_timeout_s: float = 600.0
    restart: bool = False  # when the service fails by itself


@dataclass(frozen=True, slots=True)
class DeploymentState:
    """Serve's status of one deployment."""

    running: int
    starting: int
    message: str


@dataclass(frozen=True, slots=True)
class AppState:
    """Serve's status of the application; ``status`` is Serve's own word."""

    status: str
    message: str
    deployments: Mapping[str, DeploymentState]


def serve(config: ServeConfig, options: ServeOptions, console: Console) -> int:
    """Serve until told to stop, then return 0; 1 if it could not start or failed, 2 if the configuration is invalid."""
    if not options.restart:
        status = serve_once(config, options, console)
        return 1 if status == LOST else status
    with stop_on_signals():
        return supervise(lambda: in_child(lambda: serve_once(config, options, console)), console.print)


def serve_once(config: ServeConfig, options: ServeOptions, console: Console) -> int:
    """As ``serve``, without restarts; returns LOST if the service failed after it had served."""
    try:
        with stop_on_signals():
            bring_up_and_watch(config, options, console)
    except (KeyboardInterrupt, SystemExit):
        tell(console, "Stopped.")
        return 0
    except AdasdError as error:
        stderr = Console(stderr=True)
        for sentence in str(error).splitlines():
            tell(stderr, f"[red]adasd serve:[/red] {escape(sentence)}")
        return 2 if isinstance(error, ConfigError) else LOST if isinstance(error, RayLost) else 1
    return 0


def bring_up_and_watch(config: ServeConfig, options: ServeOptions, console: Console) -> None:
    check_ports(config)
    if options.address is None and (absent := absent_folders(config)):
        raise ConfigError("\n".join(absent))
    with Steps(console) as steps, ThreadPoolExecutor(1) as pool:
        # Reading the models takes as long as starting Ray. In a joined cluster, the files are on other machines.
        checked = pool.submit(problems, config) if options.address is None else None
        steps.show("Ray", f"joining {options.address}" if options.address else "starting")
        with ray_cluster(options.address, topology.num_cpus(config), options.dashboard) as folder:
            restore_signals()  # Ray installs its own handler
            steps.show("Ray", "joined" if options.address else "started", done=True)
            if checked is not None and (found := checked.result()):
                raise ConfigError("\n".join(found))
            try:
                within(options.start_timeout_s, lambda: deploy(config, options, steps))
                wait_until_ready(config, options, steps, state_in_time, lambda: probe(config), lost_helpers)
                steps.__exit__(None, None, None)
                console.print(welcome(config), soft_wrap=True, highlight=False, markup=False)
                watch(console, state_in_time, lost_helpers, lambda: shortage(folder) if folder else None)
            except TimeoutError as error:
                raise StartFailed(f"Ray does not answer: {error}{where_logs_are(folder)}") from error
            except StartFailed as error:
                raise StartFailed(f"{error}{where_logs_are(folder)}") from error
            finally:
                if options.address is not None:
                    take_down(config, console)


# --------------------------------------------------------------------------- before the start


def check_ports(config: ServeConfig) -> None:
    """Raise StartFailed if another process listens on one of the ports, before anything is started."""
    for name, port in (("port", config.port), ("grpc_port", config.grpc_port)):
        if port == 0:
            continue
        family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
        with socket.socket(family) as probe_socket:
            probe_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe_socket.bind((config.host, port))
            except OSError as error:
                flag = "--" + name.replace("_", "-")
                why = error.strerror or str(error)
                raise StartFailed(
                    f"cannot listen on {config.host}:{port} ({why}); choose another with {flag}"
                ) from error


def deploy(config: ServeConfig, options: ServeOptions, steps: Steps) -> None:
    """Hand the application to Serve and return at once."""
    lacking = topology.missing(config, nodes())
    if lacking and options.address is None:
        raise StartFailed("this machine cannot hold the deployment: " + "; ".join(lacking))
    for sentence in lacking:  # only a warning: a cluster may still grow
        steps.show("placement", f"waiting for nodes: {sentence}")

    steps.show("service", "starting")
    from ray import serve as ray_serve
    from ray.serve import RunTarget

    from cluster.app import build

    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # after the import, which sets the level
    alone = options.address is None
    location, worker_host = ("HeadOnly", "127.0.0.1") if alone else (config.orchestrator.proxies, "0.0.0.0")
    ray_serve.start(proxy_location=location, http_options=http_options(config))
    ray_serve.run_many(
        [RunTarget(build(config, worker_host), name=APP_NAME, route_prefix="/")],
        wait_for_ingress_deployment_creation=False,
        wait_for_applications_running=False,
    )


def http_options(config: ServeConfig) -> dict[str, Any]:
    """Where Serve's proxies listen, and with which certificate."""
    options: dict[str, Any] = {"host": config.host, "port": config.port}
    if config.tls.certificate is not None and config.tls.key is not None:
        files = {"ssl_certfile": config.tls.certificate, "ssl_keyfile": config.tls.key}
        options |= {name: str(Path(file).expanduser().absolute()) for name, file in files.items()}
    return options


# --------------------------------------------------------------------------- until ready


def wait_until_ready(
    config: ServeConfig,
    options: ServeOptions,
    steps: Steps,
    state: Callable[[], AppState | None],
    ready: Callable[[], tuple[bool, str]],
    lost: Callable[[], list[str]] = list,
    sleep: Callable[[float], None] = time.sleep,
    now: Callable[[], float] = time.monotonic,
) -> None:
    """Report progress until ``/ready`` succeeds; StartFailed if the start fails or takes too long.

    Serve itself waits for ever, in silence, for a replica that fits nowhere or never starts.
    """
    deadline = now() + options.start_timeout_s
    while True:
        if helpers := lost():
            raise StartFailed(f"Ray went down: {', '.join(helpers)} ended by itself")
        try:
            seen = state()
        except TimeoutError:  # a busy machine; the start has its own deadline
            seen = None
        if seen is not None:
            show_deployments(config, seen, steps)
            if seen.status in ("DEPLOY_FAILED", "UNHEALTHY"):
                raise StartFailed(why_failed(seen))
            is_ready, reason = ready() if seen.status == "RUNNING" else (False, "waiting for replicas")
            if is_ready:
                steps.show("service", reason, done=True)
                return
            steps.show("service", reason)
        if now() > deadline:
            pending = (
                [name for name, d in seen.deployments.items() if not d.running] if seen else ["everything"]
            )
            limit = options.start_timeout_s
            raise StartFailed(
                f"not ready after {limit:g} s; waiting for {', '.join(pending) or 'the warm-up'}"
            )
        sleep(POLL_S)


def show_deployments(config: ServeConfig, seen: AppState, steps: Steps) -> None:
    for role, tier in config.tiers.items():
        found = seen.deployments.get(role)
        if found is None:
            continue
        model = tier.engine.model
        if found.running >= tier.min_replicas:
            steps.show(role, f"loaded {model}", done=True)
        elif found.starting:
            steps.show(role, f"loading {model}")
        else:
            steps.show(role, f"waiting for a place: {model}")


ERROR_LINE = re.compile(r"([a-z]\w*\.)*[A-Z]\w+: ")
"""How a traceback ends: the error's class and what it says."""


def why_failed(seen: AppState) -> str:
    """The last line of the traceback from Serve, with the deployment's name."""
    for name, deployment in seen.deployments.items():
        lines = [line.strip() for line in deployment.message.splitlines() if line.strip()]
        if not deployment.running and lines:
            told = [line for line in lines if not line.endswith("Traceback (most recent call last):")]
            errors = [line for line in told if ERROR_LINE.match(line)]
            return f"{name} did not start: {(errors or lines)[-1]}"
    return seen.message or f"the application is {seen.status}"


def state_in_time() -> AppState | None:
    """Serve's status; TimeoutError if it does not answer."""
    return within(STATE_TIMEOUT_S, read_state)


def read_state() -> AppState | None:
    """Query Serve's status."""
    from ray import serve as ray_serve

    app = ray_serve.status().applications.get(APP_NAME)
    if app is None:
        return None
    deployments = {}
    for name, found in app.deployments.items():
        counts = cast("Mapping[str, int]", found.replica_states)
        deployments[name] = DeploymentState(
            counts.get("RUNNING", 0), counts.get("STARTING", 0), found.message
        )
    return AppState(str(app.status.value), app.message, deployments)


def probe(config: ServeConfig) -> tuple[bool, str]:
    """Query ``/ready``: whether the service is ready, and its reasons."""
    try:
        # The certificate need not name this host: the request goes to this machine and carries no secret.
        answer = httpx.get(f"{url(config)}/ready", timeout=5.0, verify=not config.tls.is_on)
        body = answer.json()
    except (httpx.HTTPError, ValueError):
        return False, "waiting for HTTP"
    reasons = "; ".join(str(reason) for reason in body.get("reasons", []))
    if answer.status_code == 200:
        return True, f"ready, degraded: {reasons}" if body.get("degraded") else "ready"
    return False, reasons or "warming up"


# --------------------------------------------------------------------------- while serving


def watch(
    console: Console,
    state: Callable[[], AppState | None],
    lost: Callable[[], list[str]],
    full: Callable[[], str | None] = lambda: None,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Report replicas that start and stop, and a disk that is full; RayLost once Ray or the application is gone.

    ``full``: what to say about a full disk; None if it is not full.
    """
    before: dict[str, int] = {}
    num_failures, was_full = 0, False
    while True:
        sleep(WATCH_S)
        if (says := full()) is not None and not was_full:
            tell(console, f"{time.strftime('%H:%M:%S')} {says}")
        if was_full and says is None:
            tell(console, f"{time.strftime('%H:%M:%S')} the disk with the logs has space again")
        was_full = says is not None
        if helpers := lost():
            raise RayLost(f"Ray went down: {', '.join(helpers)} ended by itself")
        try:
            seen = state()
        except Exception as error:  # Ray raises many kinds of exceptions
            num_failures += 1
            if num_failures >= NUM_TRIES:
                raise RayLost(f"Ray does not answer any more: {error}") from error
            continue
        num_failures = 0
        if seen is None:
            raise RayLost("somebody deleted the application")
        now = {name: deployment.running for name, deployment in seen.deployments.items()}
        for name, running in now.items():
            if running != before.get(name, running):
                tell(console, f"{time.strftime('%H:%M:%S')} {name}: {before[name]} -> {running} replicas")
        before = now


def tell(console: Console, sentence: str) -> None:
    """Print it; if that cannot be done (standard output goes to a full disk), the service goes on."""
    with suppress(OSError):
        console.print(sentence, soft_wrap=True, highlight=False)


def take_down(config: ServeConfig, console: Console) -> None:
    """Remove the application from a cluster that keeps running; running answers may finish."""
    from ray import serve as ray_serve

    console.print("Letting running answers finish; Ctrl-C again cuts them.")
    try:
        within(config.request_timeout_s + TAKE_DOWN_S, lambda: ray_serve.delete(APP_NAME))
    except TimeoutError:
        console.print("The cluster does not say that the application is gone.")
    except KeyboardInterrupt:
        console.print("Left; the cluster finishes the removal by itself.")


def where_logs_are(folder: Path | None) -> str:
    return f"\nLogs are in {folder}/session_latest/logs" if folder else ""


# --------------------------------------------------------------------------- signals


def _stop(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def restore_signals() -> None:
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """Make SIGTERM end the command like Ctrl-C; restores both handlers afterwards."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    restore_signals()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
