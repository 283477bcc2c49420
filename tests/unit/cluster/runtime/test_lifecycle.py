"""Start-up as a loop over Serve's states, without Ray."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from adasd.config import EngineConfig
from cluster.runtime import lifecycle
from cluster.runtime.deadline import within
from cluster.runtime.lifecycle import (
    AppState,
    DeploymentState,
    ServeOptions,
    StartFailed,
    check_ports,
    stop_on_signals,
    wait_until_ready,
    watch,
)
from cluster.runtime.ray_cluster import RayLost
from cluster.runtime.steps import Steps
from cluster.runtime.supervisor import LOST, supervise
from cluster.runtime.welcome import url
from services.config import DoorTlsConfig, ServeConfig, TierConfig

CONFIG = ServeConfig(target=TierConfig(EngineConfig("big")), draft=TierConfig(EngineConfig("small")))


class FakeTime:
    """A clock that moves only in ``sleep``."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def app(status: str, message: str = "", **deployments: tuple[int, int, str]) -> AppState:
    return AppState(status, message, {name: DeploymentState(*values) for name, values in deployments.items()})


def follow(states, answers=((True, "ready"),), timeout_s: float = 60.0) -> str:
    """What the user reads while Serve reports ``states`` and ``/ready`` replies ``answers`` (the last one repeats)."""
    out = io.StringIO()
    states, answers, time = list(states), list(answers), FakeTime()
    steps = Steps(Console(file=out, width=200), time)
    wait_until_ready(
        CONFIG,
        ServeOptions(start_timeout_s=timeout_s),
        steps,
        lambda: states.pop(0) if len(states) > 1 else states[0],
        lambda: answers.pop(0) if len(answers) > 1 else answers[0],
        list,
        time.sleep,
        time,
    )
    return out.getvalue()


def test_loading_and_warming_up_are_told_as_they_happen():
    out = follow(
        [
            None,
            app("DEPLOYING", target=(0, 0, ""), draft=(0, 1, "")),
            app("DEPLOYING", target=(0, 1, ""), draft=(1, 0, "")),
            app("RUNNING", target=(1, 0, ""), draft=(1, 0, "")),
        ],
        [(False, "the draft has not answered"), (True, "ready")],
    )
    told = [
        "waiting for a place: big",
        "loading small",
        "loading big",
        "loaded small",
        "the draft has not",
        "ready",
    ]
    places = [out.index(words) for words in told]
    assert places == sorted(places)


def test_a_replica_that_cannot_start_is_reported_with_its_own_error():
    message = "The deployment failed to start 3 times in a row.\nTraceback\n  File x\nConfigError: no such file: big\n"
    with pytest.raises(StartFailed, match="target did not start: ConfigError: no such file: big"):
        follow([app("DEPLOY_FAILED", target=(0, 0, message), draft=(1, 0, ""))])


def test_the_error_at_the_bottom_of_nested_tracebacks_is_told():
    message = (
        "RuntimeError: Traceback (most recent call last):\n  File x\n    raise InvalidRequest(\n"
        "adasd.errors.InvalidRequest: it sends blocks, and no probabilities\n"
    )
    with pytest.raises(
        StartFailed, match=r"draft did not start: adasd\.errors\.InvalidRequest: it sends blocks"
    ):
        follow([app("DEPLOY_FAILED", target=(1, 0, ""), draft=(0, 0, message))])


def test_a_start_that_never_ends_is_given_up_and_names_what_is_missing():
    with pytest.raises(StartFailed, match="not ready after 5 s; waiting for draft"):
        follow([app("DEPLOYING", target=(1, 0, ""), draft=(0, 0, ""))], timeout_s=5)


def test_a_warm_up_that_never_ends_is_given_up():
    with pytest.raises(StartFailed, match="waiting for the warm-up"):
        follow([app("RUNNING", target=(1, 0, ""), draft=(1, 0, ""))], [(False, "warming up")], timeout_s=5)


def test_watching_tells_of_replicas_that_come_and_go_and_ends_with_the_application():
    out = io.StringIO()
    states = [app("RUNNING", draft=(1, 0, "")), app("RUNNING", draft=(0, 1, "")), None]
    with pytest.raises(RayLost, match="deleted"):
        watch(Console(file=out), lambda: states.pop(0), list, sleep=lambda _: None)
    assert "draft: 1 -> 0 replicas" in out.getvalue()


def test_a_full_disk_is_told_once_and_its_end_too():
    out, full = io.StringIO(), [None, "the disk is full", "the disk is full", None, None]
    states = [app("RUNNING"), app("RUNNING"), app("RUNNING"), app("RUNNING"), None]
    with pytest.raises(RayLost):
        watch(Console(file=out), lambda: states.pop(0), list, lambda: full.pop(0), lambda _: None)
    assert [line[9:] for line in out.getvalue().splitlines()] == [
        "the disk is full",
        "the disk with the logs has space again",
    ]


def test_words_that_cannot_be_written_do_not_end_the_service():
    states = [app("RUNNING", draft=(1, 0, "")), app("RUNNING", draft=(0, 1, "")), None]
    full = Path("/dev/full").open("w")  # noqa: SIM115 (closing fails, too)
    with pytest.raises(RayLost):
        watch(Console(file=full), lambda: states.pop(0), list, sleep=lambda _: None)
    with suppress(OSError):
        full.close()


def test_watching_ends_when_ray_is_gone():
    def gone() -> AppState:
        raise RuntimeError("no controller")

    with pytest.raises(RayLost, match="Ray does not answer any more: no controller"):
        watch(Console(file=io.StringIO()), gone, list, sleep=lambda _: None)


def test_watching_ends_when_a_helper_of_ray_died_and_does_not_ask_serve_any_more():
    def hangs() -> AppState:
        raise AssertionError("asked")

    with pytest.raises(RayLost, match=r"raylet \(status -9\) ended by itself"):
        watch(Console(file=io.StringIO()), hangs, lambda: ["raylet (status -9)"], sleep=lambda _: None)


def test_a_service_that_was_lost_is_status_1_with_the_reason_on_the_last_line(monkeypatch, capsys):
    def lost(*_: object) -> None:
        raise RayLost("Ray went down: raylet (status -9) ended by itself")

    monkeypatch.setattr(lifecycle, "bring_up_and_watch", lost)
    assert lifecycle.serve(CONFIG, ServeOptions(), Console(file=io.StringIO())) == 1
    assert capsys.readouterr().err == "adasd serve: Ray went down: raylet (status -9) ended by itself\n"


def test_with_restart_a_lost_service_is_started_again_and_a_stopped_one_is_not(monkeypatch):
    statuses, told, time = [LOST, LOST, 1, 0], [], FakeTime()
    assert supervise(lambda: statuses.pop(0), told.append, time.sleep, time) == 0
    assert told == ["Starting again in 1 s.", "Starting again in 2 s.", "Starting again in 4 s."]
    assert supervise(lambda: 1, told.append) == 1, "what never served has a reason of its own"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_who_stops_it_between_two_starts_gets_status_0(number):
    told = []
    with stop_on_signals():
        stopped = supervise(lambda: LOST, told.append, lambda _: os.kill(os.getpid(), number))
    assert stopped == 0
    assert told == ["Starting again in 1 s.", "Stopped."]


def test_the_child_s_status_is_the_parent_s():
    command = "from cluster.runtime.supervisor import in_child; raise SystemExit(in_child(lambda: 3))"
    assert subprocess.run([sys.executable, "-c", command], check=False).returncode == LOST == 3


def test_a_call_that_hangs_has_a_deadline_and_one_that_raises_raises():
    assert within(60.0, lambda: 3) == 3
    with pytest.raises(TimeoutError, match=r"no answer within 0\.01 s"):
        within(0.01, threading.Event().wait)
    with pytest.raises(ZeroDivisionError):
        within(60.0, lambda: 1 // 0)


def test_a_port_in_use_is_named_before_anything_starts():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(
            StartFailed, match=rf"cannot listen on 127\.0\.0\.1:{port} .* choose another with --port"
        ):
            check_ports(ServeConfig(target=CONFIG.target, draft=None, port=port, grpc_port=0))


def test_ports_of_an_ipv6_address_are_checked():
    with socket.socket(socket.AF_INET6) as other:
        try:
            other.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6")
        config = replace(CONFIG, host="::1", port=other.getsockname()[1], grpc_port=0)
        other.listen()
        with pytest.raises(StartFailed, match=r"\(Address already in use\)"):
            check_ports(config)
    check_ports(config)


def test_a_port_used_by_somebody_means_status_1_and_one_sentence_on_stderr(capsys):
    out = io.StringIO()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        config = ServeConfig(target=CONFIG.target, draft=None, port=other.getsockname()[1], grpc_port=0)
        assert lifecycle.serve(config, ServeOptions(), Console(file=out, width=200)) == 1
    assert out.getvalue() == ""
    assert capsys.readouterr().err.startswith("adasd serve: cannot listen on")


def test_a_folder_that_is_not_there_is_named_at_once_with_status_2(capsys):
    out = io.StringIO()
    absent = TierConfig(EngineConfig("/no/such/model"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        config = ServeConfig(target=absent, draft=absent, port=free.getsockname()[1], grpc_port=0)
    assert lifecycle.serve(config, ServeOptions(), Console(file=out, width=200)) == 2
    assert out.getvalue() == ""
    target, draft = capsys.readouterr().err.splitlines()
    assert target.startswith("adasd serve: target: there is no model folder /no/such/model")
    assert draft.startswith("adasd serve: draft: there is no model folder")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_stop_the_command_and_work_as_before_afterwards(number):
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), stop_on_signals():
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_with_a_certificate_http_is_https(tmp_path):
    config = replace(CONFIG, tls=DoorTlsConfig("door.crt", str(tmp_path / "door.key")))
    options = lifecycle.http_options(config)
    assert options["ssl_certfile"] == str(Path("door.crt").absolute())
    assert options["ssl_keyfile"] == str(tmp_path / "door.key")
    assert url(config).startswith("https://")
    assert "ssl_certfile" not in lifecycle.http_options(CONFIG)
