"""The start-up benchmark, with small servers in place of ``adasd serve``."""

import json
import sys
import time
from pathlib import Path

import pytest

from load_tests.free_ports import free_port
from load_tests.latency import start_up
from load_tests.latency.start_up import StartUpFailed, start_once

READY = """
import signal, subprocess, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer
port = int(sys.argv[sys.argv.index("--port") + 1])
begun = time.monotonic()
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("child", child.pid, flush=True)
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/ready" and time.monotonic() - begun > 0.5 else 503)
        self.end_headers()
    def log_message(self, *a): pass
try:
    HTTPServer(("127.0.0.1", port), Handler).serve_forever()
except KeyboardInterrupt:
    sys.exit(STATUS)
"""


def command(port, status=0, source=READY):
    return [sys.executable, "-c", source.replace("STATUS", str(status)), "--port", str(port)]


def is_alive(pid):
    """Whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_start_is_timed_from_the_process_to_the_first_yes():
    port = free_port()
    found = start_once(command(port), port, 30.0)
    assert 0.5 < found.ready_s < 30.0
    assert 0.0 < found.stop_s < 30.0


@pytest.mark.parametrize(
    ("source", "timeout_s", "message"),
    [
        ("print('no such model'); raise SystemExit(3)", 30.0, "status 3:\nno such model"),
        ("import time; print('still loading', flush=True); time.sleep(600)", 0.5, "not ready in time"),
    ],
)
def test_a_server_that_does_not_start_is_reported_with_its_output(source, timeout_s, message):
    port = free_port()
    with pytest.raises(StartUpFailed, match=message):
        start_once(command(port, source=source), port, timeout_s)


def test_a_server_that_breaks_while_stopping_is_reported_and_its_children_die():
    port = free_port()
    with pytest.raises(StartUpFailed, match="status 5 after Ctrl-C") as failure:
        start_once(command(port, status=5), port, 30.0)
    child = int(str(failure.value).split("child ")[1].split()[0])
    deadline = time.monotonic() + 60
    while is_alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(child)


def test_the_median_of_several_runs_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(start_up, "GOAL_S", 20.0)
    asked = []

    def fake(command, port, timeout_s):
        asked.append(command)
        return start_up.StartUp(10.0 * len(asked), 1.0)

    monkeypatch.setattr(start_up, "start_once", fake)
    file = tmp_path / "figures.json"
    assert start_up.main(["--draft", "small", "--json", str(file)], ["serve"]) == 0
    assert [words[0] for words in asked] == ["serve"] * 3
    assert all(words[-2:] == ["--draft", "small"] for words in asked)
    assert json.loads(file.read_text())["median_ready_s"] == 20.0
    assert "reached" in capsys.readouterr().out
    assert start_up.main([], ["serve"]) == 1, "the next three take 40 to 60 s"
