"""Evaluates every rule and panel with a real Prometheus: ``python k8s/monitoring/check_rules.py [--live | --url URL]``.

Scrapes series that the service's own metric code makes of a scripted busy minute; with ``--live`` a demo server of
its own under a mixed load instead, with ``--url`` somebody's server. Fails if a rule breaks, a recording or a panel
comes back empty, or promtool's tests fail. Needs Debian's package ``prometheus``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.unit.k8s.busy_minute import BusyMinute

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
WITHIN_S = 60.0
ONLY_AFTER_TROUBLE = ("adasd_requests_refused_total", "adasd:requests_refused:rate5m")
"""Series that may be missing on a server under a little load."""
LIVE_SETTINGS = {"audit_share": 1.0, "speculation": {"acceptance": "threshold"}}
"""Settings with which every panel has data: the default acceptance method has no acceptance threshold."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--url", help="a running server, under a little load")
    source.add_argument("--live", action="store_true", help="start a demo server and load it a little")
    arguments = parser.parse_args()
    for program in ("prometheus", "promtool"):
        if shutil.which(program) is None:
            print(f"there is no {program}; install it with apt-get install prometheus", file=sys.stderr)
            return 2
    for words in (["check", "rules", "rules.yaml"], ["test", "rules", "rules.test.yaml"]):
        if subprocess.run(["promtool", *words], cwd=FOLDER, check=False).returncode:
            return 1
    scraped = nullcontext(arguments.url) if arguments.url else loaded() if arguments.live else scripted()
    with (
        tempfile.TemporaryDirectory(prefix="prometheus-") as folder,
        scraped as server,
        running(Path(folder), server) as url,
    ):
        return report(url, trouble_too=not (arguments.url or arguments.live))


@contextmanager
def loaded() -> Iterator[str]:
    """A demo server under load in every mode while the context is open; all adaptive answers are audited."""
    from load_tests.load.server_under_test import demo_server

    with demo_server(LIVE_SETTINGS) as server, tempfile.TemporaryDirectory() as folder:
        assert server.grpc is not None
        words = ["--url", server.url, "--grpc", server.grpc, "--json", f"{folder}/load.json"]
        command = [
            sys.executable,
            "-m",
            "cluster.cli",
            "bench",
            "mixed",
            "--rate",
            "3",
            "--seconds",
            "600",
            *words,
        ]
        load = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        try:
            yield server.url
        finally:
            load.terminate()
            load.wait(60)


def report(url: str, trouble_too: bool) -> int:
    """Wait until nothing is empty, or report what still is."""
    wanted = [
        (where, expression)
        for where, expression in expressions()
        if trouble_too or not any(name in expression for name in ONLY_AFTER_TROUBLE)
    ]
    until_s, empty = time.monotonic() + WITHIN_S, wanted
    while empty and time.monotonic() < until_s:
        time.sleep(2)
        empty = [(where, expression) for where, expression in empty if not query(url, expression)]
    groups = httpx.get(f"{url}/api/v1/rules").json()["data"]["groups"]
    broken = [rule for group in groups for rule in group["rules"] if rule["health"] != "ok"]
    for where, expression in empty:
        print(f"empty: {where}: {expression}", file=sys.stderr)
    for rule in broken:
        print(f"{rule['health']}: {rule['name']}: {rule.get('lastError', '')}", file=sys.stderr)
    num_rules = sum(len(group["rules"]) for group in groups)
    print(f"{len(wanted) - len(empty)} of {len(wanted)} expressions have values; {num_rules} rules evaluated")
    return 1 if empty or broken else 0


def expressions() -> Iterator[tuple[str, str]]:
    """Recordings and panels; alerts are only evaluated, since nothing should fire."""
    for group in yaml.safe_load((FOLDER / "rules.yaml").read_text())["groups"]:
        for rule in group["rules"]:
            if "record" in rule:
                yield "rules.yaml", rule["record"]
    for file in sorted((FOLDER / "dashboards").glob("*.json")):
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel["targets"]:
                yield f"{file.name}, {panel['title']}", target["expr"].replace("$namespace", ".*")


def query(url: str, expression: str) -> bool:
    """Whether it has a value now; an error is printed and counts as no value."""
    answer = httpx.get(f"{url}/api/v1/query", params={"query": expression}).json()
    if answer["status"] != "success":
        print(answer["error"], file=sys.stderr)
        return False
    values = [float(sample["value"][1]) for sample in answer["data"]["result"]]
    return any(value == value for value in values)  # at least one that is not NaN


@contextmanager
def running(folder: Path, scraped: str) -> Iterator[str]:
    """A Prometheus that scrapes ``scraped`` and evaluates the rules every second; yields its address."""
    rules = yaml.safe_load((FOLDER / "rules.yaml").read_text())
    for group in rules["groups"]:
        group["interval"] = "1s"
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
    target = {"targets": [scraped.removeprefix("http://")], "labels": {"namespace": "here"}}
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": [{"job_name": "adasd", "static_configs": [target]}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    process = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={folder}/prometheus.yml",
            f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address={address}",
            "--log.level=error",
        ]
    )
    try:
        wait_until_ready(f"http://{address}", process)
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(30)


def wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    until_s = time.monotonic() + WITHIN_S
    while time.monotonic() < until_s and process.poll() is None:
        try:
            if httpx.get(f"{url}/-/ready").status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.3)
    raise SystemExit("Prometheus did not start")


@contextmanager
def scripted() -> Iterator[str]:
    """Serves the scripted series; they advance with every scrape."""
    minute = BusyMinute()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            minute.go_on()
            body = minute.text()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
