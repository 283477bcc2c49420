"""Writes the files generated from rules.yaml and the panels below: ``python k8s/monitoring/dashboards.py [--check]``.

Grafana's JSON is long; a panel here is a title, a unit and its expressions. ``--check`` reports whether the committed
files are current.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).resolve().parent
HERE = 'namespace=~"$namespace"'
WIDTH, HEIGHT = 12, 8


@dataclass(frozen=True)
class Panel:
    """One graph; ``queries`` are (legend, expression)."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    about: str = ""


def quantiles(buckets: str, extra: str = "") -> tuple[tuple[str, str], ...]:
    """Median, 95th and 99th percentile of a recorded histogram."""
    by = "le, tier" if extra else "le"
    inner = f"sum by ({by}) ({buckets}{{{HERE}{extra}}})"
    shares = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
    return tuple((name, f"histogram_quantile({share}, {inner})") for name, share in shares)


def mean_ms(kind: str, more: str = "") -> str:
    """Mean of a histogram for one side of a round, by tier."""
    drop = "instance, pod, container, endpoint, service"
    parts = (
        f"sum by (tier) (max without ({drop}) (rate(adasd_{kind}_milliseconds_{end}{{{HERE}{more}}}[5m])))"
        for end in ("sum", "count")
    )
    return " / ".join(parts)


def one(expression: str, legend: str = "") -> tuple[tuple[str, str], ...]:
    return ((legend, expression),)


def here(name: str, by: str = "", more: str = "") -> str:
    """A recorded series of the selected namespaces, summed."""
    return f"sum by ({by}) ({name}{{{HERE}{more}}})" if by else f"sum({name}{{{HERE}{more}}})"


ADAPTIVE = here("adasd:tokens:rate5m", more=', mode="adaptive"')
ASKED_TO_DRAFT = here("adasd:rounds:rate5m", more=', mode!="off"')
PLAIN = here("adasd:rounds:rate5m", more=', mode!="off", kind="plain"')
RELAXED = here("adasd:tokens:rate5m", more=', kind="relaxed", mode="adaptive"')

DASHBOARDS: dict[str, tuple[str, Sequence[Panel]]] = {
    "overview": (
        "AdaSD: overview",
        (
            Panel(
                "Requests",
                "short",
                (
                    ("running", here("adasd:requests_running:sum")),
                    ("waiting", here("adasd:requests_waiting:sum")),
                ),
            ),
            Panel(
                "Answers by end",
                "reqps",
                one(here("adasd:answers:rate5m", "finished_reason"), "{{finished_reason}}"),
            ),
            Panel(
                "Tokens per second",
                "short",
                (
                    ("prompts", here("adasd:prompt_tokens:rate5m")),
                    ("answers", here("adasd:generation_tokens:rate5m")),
                ),
            ),
            Panel("Time to first token", "s", quantiles("adasd:time_to_first_token_seconds_bucket:rate5m")),
            Panel("Time between chunks", "s", quantiles("adasd:inter_token_latency_seconds_bucket:rate5m")),
            Panel("Request latency", "s", quantiles("adasd:request_latency_seconds_bucket:rate5m")),
            Panel(
                "Refused",
                "reqps",
                one(here("adasd:requests_refused:rate5m", "door, code"), "{{door}} {{code}}"),
            ),
            Panel("Replicas", "short", one(here("adasd:replicas:count", "role"), "{{role}}")),
        ),
    ),
    "speculation": (
        "AdaSD: speculation",
        (
            Panel(
                "Acceptance",
                "percentunit",
                one(
                    f"{here('adasd:accepted_tokens:rate5m')} / {here('adasd:draft_tokens:rate5m')}",
                    "accepted",
                ),
                "Share of drafted tokens that stand.",
            ),
            Panel(
                "Tokens per verdict",
                "short",
                one(
                    f"1 + {here('adasd:accepted_tokens:rate5m')} / {here('adasd:drafts:rate5m')}",
                    "mean length",
                ),
            ),
            Panel(
                "Acceptance by position",
                "percentunit",
                one(
                    f"{here('adasd:accepted_tokens_per_pos:rate5m', 'position')}"
                    f" / scalar({here('adasd:drafts:rate5m')})",
                    "{{position}}",
                ),
                "Share of blocks whose first so many tokens stand.",
            ),
            Panel(
                "Where tokens come from",
                "short",
                one(here("adasd:tokens:rate5m", "kind"), "{{kind}}"),
            ),
            Panel(
                "Relaxed share, mode adaptive",
                "percentunit",
                one(f"{RELAXED} / ({ADAPTIVE} > 0)", "relaxed"),
                "Tokens accepted although the exact test refused them.",
            ),
            Panel(
                "Audit: tokens that the exact rule would not have written",
                "percentunit",
                one(
                    f"{here('adasd:audit_tokens_different:rate1h', 'law')}"
                    f" / ({here('adasd:audit_tokens:rate1h', 'law')} > 0)",
                    "{{law}}",
                ),
                "Adaptive answers scored again on the target (setting audit_share). Unseeded ones differ from any"
                " other sample, too.",
            ),
            Panel(
                "Entropy ceiling (nats)",
                "short",
                one(f"avg by (mode) (adasd_generation_threshold_nats{{{HERE}}})", "{{mode}}"),
            ),
            Panel(
                "Acceptance threshold (JS distance)",
                "short",
                one(f"avg by (mode) (adasd_acceptance_threshold_js{{{HERE}}})", "{{mode}}"),
            ),
            Panel(
                "Blocks drafted ahead that could be used",
                "percentunit",
                one(
                    f"{here('adasd:blocks_ahead_used:rate5m')} / ({here('adasd:blocks_ahead:rate5m')} > 0)",
                    "used",
                ),
            ),
            Panel(
                "Bypass: rounds not drafted",
                "percentunit",
                one(f"{PLAIN} / ({ASKED_TO_DRAFT} > 0)", "plain"),
                "Of rounds that might be drafted: while it does not pay, without a draft, or at the end of an answer.",
            ),
            Panel(
                "Wait for a draft, in a round",
                "ms",
                one(mean_ms("round", ', tier="draft"'), "mean"),
                "Wall time of a block: forward passes, queue and links.",
            ),
            Panel("Late blocks per second", "short", one(here("adasd:blocks_late:rate5m"), "late")),
            Panel(
                "Wait for a draft slot",
                "s",
                quantiles("adasd:slot_wait_seconds_bucket:rate5m", ', tier="draft"'),
            ),
        ),
    ),
    "tiers": (
        "AdaSD: tiers",
        (
            Panel("Replicas", "short", one(here("adasd:replicas:count", "role"), "{{role}}")),
            Panel(
                "Slots in use",
                "percentunit",
                one(f"{here('adasd:sessions:sum', 'role')} / {here('adasd:slots:sum', 'role')}", "{{role}}"),
            ),
            Panel("Leases", "short", one(here("adasd:leases:sum", "role"), "{{role}}")),
            Panel("Waiting requests", "short", one(here("adasd:requests_waiting:sum"), "waiting")),
            Panel(
                "Busy", "percentunit", one(f"avg by (role) (adasd:worker_busy:ratio5m{{{HERE}}})", "{{role}}")
            ),
            Panel(
                "KV cache in use, by slots",
                "percentunit",
                one(f"max by (replica) (vllm:kv_cache_usage_perc{{{HERE}}})", "{{replica}}"),
            ),
            Panel("Round: wall time", "ms", one(mean_ms("round"), "{{tier}}")),
            Panel("Round: forward passes", "ms", one(mean_ms("compute"), "{{tier}}")),
            Panel("Round: queue in the worker", "ms", one(mean_ms("queue"), "{{tier}}")),
            Panel("Round: links", "ms", one(mean_ms("hop"), "{{tier}}")),
            Panel(
                "Slots lost in 10 minutes",
                "short",
                one(here("adasd:slots_lost:increase10m", "tier"), "{{tier}}"),
            ),
            Panel(
                "Memory of the largest replica",
                "bytes",
                one(here("adasd:process_resident_bytes:max", "role"), "{{role}}"),
            ),
            Panel(
                "Open files of the fullest replica",
                "short",
                one(here("adasd:process_open_files:max", "role"), "{{role}}"),
            ),
            Panel(
                "Failed calls per second",
                "short",
                one(here("adasd:worker_calls_failed:rate5m", "role"), "{{role}}"),
            ),
        ),
    ),
    "slo": (
        "AdaSD: objectives",
        (
            Panel(
                "Requests that fail through us (objective 0.5 %)",
                "percentunit",
                (
                    ("5 minutes", f"max(adasd:faults:ratio5m{{{HERE}}})"),
                    ("1 hour", f"max(adasd:faults:ratio1h{{{HERE}}})"),
                    ("6 hours", f"max(adasd:faults:ratio6h{{{HERE}}})"),
                ),
            ),
            Panel(
                "First tokens later than 2.5 s (objective 5 %)",
                "percentunit",
                one(f"max(adasd:slow_first_tokens:ratio5m{{{HERE}}})", "late"),
            ),
            Panel(
                "Ends by mode",
                "reqps",
                one(here("adasd:requests_ended:rate5m", "mode, outcome"), "{{mode}} {{outcome}}"),
            ),
            Panel(
                "Wait for a target slot",
                "s",
                quantiles("adasd:slot_wait_seconds_bucket:rate5m", ', tier="target"'),
            ),
        ),
    ),
}


def dashboard(name: str) -> dict[str, Any]:
    """Grafana's JSON of one dashboard."""
    title, panels = DASHBOARDS[name]
    source = {"type": "prometheus", "uid": "${datasource}"}
    variables = [
        {"name": "datasource", "type": "datasource", "query": "prometheus"},
        {
            "name": "namespace",
            "type": "query",
            "datasource": source,
            "query": "label_values(vllm:num_requests_running, namespace)",
            "includeAll": True,
            "allValue": ".*",
            "multi": True,
            "refresh": 2,
        },
    ]
    return {
        "uid": f"adasd-{name}",
        "title": title,
        "tags": ["adasd"],
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": variables},
        "links": [{"type": "dashboards", "tags": ["adasd"], "title": "AdaSD", "asDropdown": True}],
        "panels": [_panel(number, panel, source) for number, panel in enumerate(panels)],
    }


def _panel(number: int, panel: Panel, source: dict[str, str]) -> dict[str, Any]:
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.about,
        "datasource": source,
        "gridPos": {"h": HEIGHT, "w": WIDTH, "x": number % 2 * WIDTH, "y": number // 2 * HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + index), "expr": expression, "legendFormat": legend, "datasource": source}
            for index, (legend, expression) in enumerate(panel.queries)
        ],
    }


LABELS = {"app.kubernetes.io/name": "adasd", "release": "kube-prometheus-stack"}
"""The second one is what that chart's Prometheus selects under its usual name of release."""


def prometheus_rule() -> str:
    """rules.yaml as the Prometheus operator's resource."""
    rules = yaml.safe_load((FOLDER / "rules.yaml").read_text())
    kind = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "adasd", "labels": LABELS},
        "spec": rules,
    }
    return "# Written from rules.yaml by dashboards.py.\n" + yaml.safe_dump(kind, sort_keys=False, width=200)


def files() -> dict[Path, str]:
    """All generated files, by path."""
    boards = {
        FOLDER / "dashboards" / f"{name}.json": json.dumps(dashboard(name), indent=1) + "\n"
        for name in DASHBOARDS
    }
    return {**boards, FOLDER / "prometheus-rule.yaml": prometheus_rule()}


def main() -> int:
    stale = [path for path, text in files().items() if not path.is_file() or path.read_text() != text]
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"{path.name} is stale; run make k8s", file=sys.stderr)
        return 1 if stale else 0
    for path, text in files().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
