"""The Ray cluster of the service: one of our own that ends with it, or one that is already running.

Our own cluster uses a temporary folder and free ports of the loopback address, keeps its access token in that folder
(Ray's default is the user's home) and ends with this process. Only the owner can read the folder; Ray makes its own
folder readable for every user, so it is inside ours. A joined cluster keeps running; only the application is removed
from it.
"""

from __future__ import annotations

import logging
import math
import os
import secrets
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from adasd.errors import AdasdError, ConfigError
from cluster.runtime.deadline import within
from cluster.topology import Node

SERVE_ENVIRONMENT = {
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",  # the default transport leaks a stream whose holder is killed
    "RAY_SERVE_ROUTER_RETRY_MAX_BACKOFF_S": "0.05",  # by default, a free slot is found after half a second
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_SERVE_QUEUE_LENGTH_RESPONSE_DEADLINE_S": "0.5",  # a busy machine is not a dead replica
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(2**31 - 1),  # by default, answers over 4 MB are a 500
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "services.gateway.http.proxy_front:middlewares",
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "2",  # restarts a killed proxy in seconds, not in half a minute
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "5",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # Ray's default of 15 gives every other process on the machine priority
}
"""Set before Ray is imported, unless the user's environment already sets them."""

POD_ENVIRONMENT = {
    **SERVE_ENVIRONMENT,
    "RAY_SERVE_MAX_PER_REPLICA_RETRY_COUNT": "20",  # by default, three failed starts end a deployment
}
"""For every process of a Ray cluster that outlives its nodes; our own cluster should report failures early instead."""

OWN_ENVIRONMENT = {
    # Ray's switch for systems without clusters: the node's address becomes 127.0.0.1, and Ray's servers bind to it.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}
"""For a cluster of our own, which has one node."""

CONNECT_TIMEOUT_S = 5.0
SHUTDOWN_TIMEOUT_S = 20.0
KILL_TIMEOUT_S = 5.0
"""For the last processes of a Ray that is being ended."""
OBJECT_STORE_BYTES = 128 * 1024 * 1024  # this service does not use the object store


class StartFailed(AdasdError):
    """The service could not start."""


class RayLost(AdasdError):
    """Ray or its application failed by itself while serving."""


@contextmanager
def ray_cluster(address: str | None, num_cpus: float, dashboard: bool) -> Iterator[Path | None]:
    """Ray, ready for Serve. Yields the folder of logs, None for a joined cluster."""
    for name, value in SERVE_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if address is not None:
        with _joined(address):
            yield None
        return
    folder = Path(tempfile.mkdtemp(prefix="adasd-"))  # short: socket paths hold 107 bytes
    kept = False
    try:
        with _own(folder, num_cpus, dashboard) as ray_folder:
            yield ray_folder
    except BaseException as error:
        kept = not isinstance(error, KeyboardInterrupt | SystemExit | RayLost)
        raise
    finally:
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)


def check_listens(address: str) -> None:
    """ConfigError at once if nothing listens at ``host:port``; Ray itself would retry for over a minute."""
    host, _, port = address.rpartition(":")
    if not port.isdigit():  # auto, ray://...
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT_S).close()
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise ConfigError(
            f"there is no Ray cluster at {address} ({why}); give host:port of its head"
        ) from error


@contextmanager
def _joined(address: str) -> Iterator[None]:
    check_listens(address)
    import ray

    ray.init(address=address, namespace="adasd", log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _own(folder: Path, num_cpus: float, dashboard: bool) -> Iterator[Path]:
    _keep_token_in(folder)
    for name, value in OWN_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    ray_folder = folder / "ray"
    try:
        try:
            _start(ray_folder, num_cpus, dashboard)
        except Exception:  # Ray raises a plain Exception; on a busy machine its 30 s may be too short
            _end(folder)
            try:
                _start(ray_folder, num_cpus, dashboard)
            except Exception as error:
                where = f"Logs are in {ray_folder}/session_latest/logs"
                raise StartFailed(f"Ray does not start: {error}\n{where}") from error
        yield ray_folder
    finally:
        _end(folder)


def _start(ray_folder: Path, num_cpus: float, dashboard: bool) -> None:
    import ray

    ray.init(
        address="local",
        namespace="adasd",
        num_cpus=max(os.cpu_count() or 1, math.ceil(num_cpus)),
        include_dashboard=dashboard,
        object_store_memory=OBJECT_STORE_BYTES,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _temp_dir=str(ray_folder),
        _node_ip_address="127.0.0.1",
    )


def _end(folder: Path) -> None:
    """Stop Ray, cleanly if possible."""
    import ray

    with suppress(Exception):
        within(SHUTDOWN_TIMEOUT_S, ray.shutdown)
    _kill_what_is_left(folder)


def lost_helpers() -> list[str]:
    """Processes essential to our own cluster that have died, with their exit status."""
    from ray._private import worker
    from ray._private.ray_constants import PROCESS_TYPE_GCS_SERVER, PROCESS_TYPE_RAYLET

    node = worker._global_node
    vital = (PROCESS_TYPE_GCS_SERVER, PROCESS_TYPE_RAYLET)
    dead: list[tuple[str, Any]] = node.dead_processes() if node is not None else []
    return [f"{kind} (status {process.returncode})" for kind, process in dead if kind in vital]


def _kill_what_is_left(folder: Path) -> None:
    """Workers outlive a killed raylet for a while; the folder in their environment identifies them (Linux).

    A process may start another one just before it is killed, so this is repeated until none is found.
    """
    deadline_s = time.monotonic() + KILL_TIMEOUT_S
    while (left := _processes_of(folder)) and time.monotonic() < deadline_s:
        for pid in left:
            with suppress(OSError):  # it has ended, or belongs to another user
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def _processes_of(folder: Path) -> list[int]:
    """Other living processes with the folder in their environment."""
    mark, found = str(folder).encode(), []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if int(entry.name) != os.getpid() and mark in (entry / "environ").read_bytes():
                found.append(int(entry.name))
    return found


def _keep_token_in(folder: Path) -> None:
    """Use token authentication with a token of our own, unless the environment sets a mode."""
    if "RAY_AUTH_MODE" in os.environ:
        return
    file = folder / "auth_token"
    file.touch(mode=0o600)
    file.write_text(secrets.token_hex(32))
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(file)


def nodes() -> list[Node]:
    """The nodes of the cluster that are alive."""
    import ray

    return [
        Node(node["NodeManagerAddress"], node["Resources"], node.get("Labels") or {})
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"]
    ]
