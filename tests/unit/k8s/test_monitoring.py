"""Rules and dashboards name series that exist, and every alert has its section in the runbook.

``make monitoring-check``, which needs Prometheus, tests that the expressions have values.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys

import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.unit.k8s.busy_minute import BusyMinute
from tests.unit.k8s.conftest import K8S
from tests.unit.k8s.kustomize import build
from tests.unit.k8s.schemas import complaints

MONITORING = K8S / "monitoring"
PAGE = (K8S.parent / "docs" / "kubernetes.md").read_text(encoding="utf-8")
RULES = [
    rule
    for group in yaml.safe_load((MONITORING / "rules.yaml").read_text())["groups"]
    for rule in group["rules"]
]
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
SERIES = re.compile(r"\b(?:adasd|vllm)[_:][a-zA-Z0-9_:]+")


def samples():
    text = BusyMinute().text().decode()
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def panels():
    for file in sorted((MONITORING / "dashboards").glob("*.json")):
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel["targets"]:
                yield f"{file.stem}: {panel['title']}", target["expr"]


EXPRESSIONS = [*((rule.get("record") or rule["alert"], rule["expr"]) for rule in RULES), *panels()]


def test_every_series_exists():
    known = {sample.name for sample in samples()} | RECORDED
    named = {where: set(SERIES.findall(expression)) for where, expression in EXPRESSIONS}
    assert all(named.values())
    assert {where: names - known for where, names in named.items() if names - known} == {}


def test_every_label_that_is_asked_for_exists():
    labels = {name for sample in samples() for name in sample.labels}
    labels |= {"namespace", "instance", "pod", "container", "endpoint", "service", "le"}
    for where, expression in EXPRESSIONS:
        listed = re.findall(r"(?:by|without|on) \(([^)]*)\)", expression)
        asked = {name.strip() for names in listed for name in names.split(",")}
        asked |= set(re.findall(r"[{,]\s*([a-z_]+)=", expression))
        assert asked <= labels, where


def test_every_alert_has_a_test_and_a_page():
    tests = yaml.safe_load((MONITORING / "rules.test.yaml").read_text())["tests"]
    fired = {
        case["alertname"] for test in tests for case in test.get("alert_rule_test", []) if case["exp_alerts"]
    }
    headings = re.findall(r"^## (\w+)$", (K8S.parent / "docs" / "runbook.md").read_text(), re.M)
    alerts = {rule["alert"]: rule["annotations"]["runbook_url"] for rule in RULES if "alert" in rule}
    assert fired == set(alerts)
    assert list(alerts) == headings
    assert all(url == f"docs/runbook.md#{name.lower()}" for name, url in alerts.items())


def test_what_is_written_from_the_rules_is_fresh():
    done = subprocess.run(
        [sys.executable, MONITORING / "dashboards.py", "--check"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_monitors_find_the_service_and_its_pods(manifests):
    documents = {d["kind"]: d["spec"] for d in build(MONITORING) if d["kind"].endswith("Monitor")}
    service = next(d for d in manifests if d["kind"] == "Service")
    wanted = documents["ServiceMonitor"]["selector"]["matchLabels"]
    assert wanted.items() <= service["metadata"]["labels"].items()
    ports = {port["name"] for port in service["spec"]["ports"]}
    assert {endpoint["port"] for endpoint in documents["ServiceMonitor"]["endpoints"]} <= ports
    cluster = next(d for d in manifests if d["kind"] == "RayService")["spec"]["rayClusterConfig"]
    for part in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        template = part["template"]
        wanted = documents["PodMonitor"]["selector"]["matchLabels"]
        assert wanted.items() <= template["metadata"]["labels"].items()
        names = {port["name"] for port in template["spec"]["containers"][0]["ports"]}
        assert {endpoint["port"] for endpoint in documents["PodMonitor"]["podMetricsEndpoints"]} <= names


def test_the_prometheus_of_a_helm_release_takes_monitors_and_rules_and_an_overlay_names_another():
    of_prometheus = [d for d in build(MONITORING) if d["apiVersion"].startswith("monitoring.coreos.com/")]
    assert {d["metadata"]["labels"]["release"] for d in of_prometheus} == {"kube-prometheus-stack"}
    documented = re.search(r"```yaml\nresources: \[(\S+)\]\nlabels: (.*)\n```", PAGE)
    assert documented is not None
    assert (K8S / "overlays" / documented[1]).resolve() == MONITORING
    assert yaml.safe_load(documented[2])[0]["pairs"].keys() == {"release"}


def test_dashboards_travel_in_a_config_map():
    (config_map,) = (d for d in build(MONITORING) if d["kind"] == "ConfigMap")
    assert complaints(config_map) == []
    assert config_map["metadata"]["labels"] == {"grafana_dashboard": "1"}
    assert {json.loads(text)["uid"] for text in config_map["data"].values()} == {
        "adasd-overview",
        "adasd-speculation",
        "adasd-tiers",
        "adasd-slo",
    }
