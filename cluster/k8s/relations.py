"""Checks between manifests that no schema covers. Each rule yields one sentence per problem.

``problems`` is the output of ``adasd k8s check``; CI requires that it is empty for every overlay.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from itertools import combinations
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from adasd.errors import AdasdError
from cluster.k8s.facts import overlap
from cluster.k8s.manifests import Document, Manifests, PodTemplate
from cluster.runtime.ray_cluster import POD_ENVIRONMENT
from cluster.topology import matches
from services.config import ServeConfig

UPGRADES = ("NewCluster", "NewClusterWithIncrementalUpgrade", "None")
CLOSED_PORTS = {6379: "Ray's control store", 8265: "Ray's dashboard", 10001: "Ray's client port"}
OPERATOR = {"app.kubernetes.io/name": "kuberay-operator"}
SECRET_WORDS = ("KEY", "TOKEN", "SECRET", "PASSWORD")
SECRET_ARGUMENT = re.compile(rf"(-*[\w-]*(?:{'|'.join(SECRET_WORDS)})[\w-]*)=\S", re.IGNORECASE)
"""An option or a variable with its value in a command line."""
OTHERWISE_IN_PODS = ("RAY_SERVE_LOG_TO_STDERR",)  # kubectl logs shows stderr
ROUTES = {"HTTPRoute": "http", "GRPCRoute": "grpc"}
"""Kinds of the Gateway API, and the service's port of each."""
HOOK_FLAG = "--deadline-s"
OTEL_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")

Rule = Callable[[Manifests], Iterator[str]]


def problems(documents: list[Document], existing: frozenset[str] = frozenset()) -> list[str]:
    """One sentence per problem; ``existing`` (kind/name, lower case) is already in the cluster."""
    manifests = Manifests(documents)
    if len(manifests.of_kind("RayService")) != 1:
        return [f"there are {len(manifests.of_kind('RayService'))} RayServices, expected one"]
    found = [sentence for rule in RULES for sentence in rule(manifests)]
    return [*found, *references(manifests, existing)]


# --------------------------------------------------------------------------- the application


def versions(m: Manifests) -> Iterator[str]:
    """The Ray version in the manifest is the one in the image; version strings have a known value."""
    if m.cluster.get("rayVersion") != version("ray"):
        yield f"rayVersion is {m.cluster.get('rayVersion')}, the image brings Ray {version('ray')}"
    upgrade = m.spec.get("upgradeStrategy", {}).get("type", UPGRADES[0])
    if upgrade not in UPGRADES:
        yield f"upgradeStrategy.type is {upgrade!r}, which KubeRay ignores; it knows {', '.join(UPGRADES)}"


def application(m: Manifests) -> Iterator[str]:
    """The Serve configuration names an existing application, with settings that it accepts."""
    module, _, builder = str(m.application.get("import_path", "")).partition(":")
    try:
        getattr(importlib.import_module(module), builder)
    except (ImportError, AttributeError, ValueError):
        yield f"serveConfigV2: there is no application {module}:{builder}"
        return
    try:
        names = {deployment.name for deployment in _deployed(m)}
    except AdasdError as error:
        yield from (f"serveConfigV2.args: {sentence}" for sentence in str(error).splitlines())
        return
    for deployment in m.application.get("deployments", []):
        if deployment["name"] not in names:
            known = ", ".join(sorted(names))
            yield f"serveConfigV2: there is no deployment {deployment['name']!r}; the application has {known}"
    said = {d["name"] for d in m.application.get("deployments", [])}
    for role in sorted(filter(_holds_streams, names - said)):
        yield f"serveConfigV2 says nothing about {role}; its drain time has to be set"


def _holds_streams(deployment: str) -> bool:
    """All deployments but the snapshot store: the orchestrator, the target, and every draft model."""
    return deployment != "metrics"


def placement(m: Manifests) -> Iterator[str]:
    """The maximum of replicas fits into the maximum of pods, and the minimum into the minimum."""
    try:
        deployed = _deployed(m)
    except (AdasdError, ImportError, AttributeError, ValueError):
        return  # reported by application()
    for bound, pods_key in ((0, "minReplicas"), (1, "maxReplicas")):
        free = [(g, _resources(g)) for g in m.groups for _ in range(g.get(pods_key, 0))]
        for deployment in deployed:
            wanted = deployment.replicas[bound]
            placed = sum(_place(deployment, free) for _ in range(wanted))
            if placed < wanted:
                what = "min" if bound == 0 else "max"
                yield (
                    f"{deployment.name}: {placed} of {wanted} replicas ({what}) find a place at the groups' "
                    f"{pods_key}; one needs {deployment.wishes()}"
                )


def orchestrators(m: Manifests) -> Iterator[str]:
    """The settings know how many orchestrators there may be, and every pod made for one has one."""
    try:
        told, deployed = served_config(m).orchestrator.replicas, _deployed(m)
    except (AdasdError, ImportError, AttributeError, ValueError):
        return  # reported by application()
    orchestrator = next(d for d in deployed if d.name == "orchestrator")
    least, most = orchestrator.replicas
    if told != most:
        yield (
            f"orchestrator: up to {most} replicas run, but orchestrator.replicas in serveConfigV2.args is {told}, so "
            f"limits of API keys and queues are computed for {told}; set it to {most}"
        )
    gateways = _groups_for(orchestrator, m)
    always = sum(group.get("minReplicas", 0) for group in m.groups if group["groupName"] in gateways)
    if always > least:
        yield f"orchestrator: {always} pods for it always run, but it runs in only {least}; the others are never ready"
    for deployment in (d for d in deployed if d is not orchestrator):
        groups = _groups_for(deployment, m)
        if groups and groups <= gateways and deployment.replicas[1] > least:
            yield (
                f"{deployment.name}: up to {deployment.replicas[1]} replicas share pods with the orchestrators, of "
                f"which only {least} always run; a pod without one is never ready"
            )


def bounds(m: Manifests) -> Iterator[str]:
    """Groups: 0 <= min <= replicas <= max, distinct names; the head runs no replica."""
    names = [group["groupName"] for group in m.groups]
    yield from (f"two groups are named {name}" for name in sorted({n for n in names if names.count(n) > 1}))
    for group in m.groups:
        low, high = group.get("minReplicas", 0), group.get("maxReplicas", 0)
        now = group.get("replicas", low)
        if not low <= now <= high:
            yield f"group {group['groupName']}: minReplicas {low} <= replicas {now} <= maxReplicas {high} fails"
    if str(m.cluster["headGroupSpec"].get("resources", {}).get("CPU")) != "0":
        yield "headGroupSpec.resources.CPU is not 0, so replicas may land on the head"


# --------------------------------------------------------------------------- time


def times(m: Manifests) -> Iterator[str]:
    """Longest stream < drain < hook < grace, and a replaced cluster outlives its drain."""
    stream_s = float(m.application.get("args", {}).get("request_timeout_s", _default("request_timeout_s")))
    streaming = [d for d in m.application.get("deployments", []) if _holds_streams(d["name"])]
    drains = {d["name"]: float(d.get("graceful_shutdown_timeout_s", 0)) for d in streaming}
    for name, drain_s in drains.items():
        if drain_s <= stream_s:
            yield f"{name} drains for {drain_s:g} s, but an answer may take {stream_s:g} s"
    drain_s = max(drains.values(), default=stream_s)
    for pod in m.pods():
        grace_s, hook_s = pod.spec.get("terminationGracePeriodSeconds", 30), _hook_s(pod)
        if hook_s is None:
            yield f"{pod.group} has no preStop hook ({HOOK_FLAG}), so its pods stop without draining"
        elif not drain_s < hook_s < grace_s:
            yield (
                f"{pod.group}: drain {drain_s:g} s < preStop hook {hook_s:g} s < "
                f"terminationGracePeriodSeconds {grace_s} fails"
            )
    delay_s = m.spec.get("rayClusterDeletionDelaySeconds", 60)
    if delay_s <= drain_s:
        yield f"rayClusterDeletionDelaySeconds is {delay_s}, but replicas drain for {drain_s:g} s"


# --------------------------------------------------------------------------- network


def ports(m: Manifests) -> Iterator[str]:
    """Settings, container ports, probes, services and policies agree on the ports."""
    args = m.application.get("args", {})
    for service in m.of_kind("Service"):
        pods = m.selected(service["spec"]["selector"])
        if not pods:
            yield f"service {service['metadata']['name']} selects no pod: {service['spec']['selector']}"
        for pod in pods:
            yield from _service_ports(service, pod, args, m)
    for pod in m.pods():
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            about = pod.ray.get(probe, {})
            port = about.get("grpc", about.get("httpGet", {})).get("port")
            if port is not None and port not in pod.ports and port not in pod.ports.values():
                yield f"{pod.group}: {probe} asks port {port}, which the container does not have"


def _service_ports(
    service: Document, pod: PodTemplate, args: Mapping[str, Any], m: Manifests
) -> Iterator[str]:
    name = service["metadata"]["name"]
    settings = {"http": "port", "grpc": "grpc_port"}
    if "readinessProbe" not in pod.ray:
        yield f"service {name} sends to {pod.group}, which has no readinessProbe"
    for port in service["spec"]["ports"]:
        target = port.get("targetPort", port["port"])
        number = pod.ports.get(target, target if target in pod.ports.values() else None)
        if number is None:
            yield f"service {name}: {pod.group} has no port {target}"
            continue
        if not _open(m, pod, number):
            yield f"service {name}: no network policy lets clients reach {pod.group} on {number}"
        setting = settings.get(str(target))
        if setting and args.get(setting, _default(setting)) != number:
            listens = args.get(setting, _default(setting))
            yield f"service {name}: {target} is {number}, but the application listens on {listens}"
    if args.get("host", "127.0.0.1") in ("127.0.0.1", "localhost", "::1"):
        yield f"service {name}: the application listens on loopback only; set host: 0.0.0.0"


def routes(m: Manifests) -> Iterator[str]:
    """Routes of a Gateway lead to ports that the services have, last as long as an answer, and share no host."""
    made = [route for kind in ROUTES for route in m.of_kind(kind)]
    services = {service["metadata"]["name"]: service for service in m.of_kind("Service")}
    longest_s = m.application.get("args", {}).get("request_timeout_s", _default("request_timeout_s"))
    for route in made:
        kind = route["kind"]
        for rule in route["spec"].get("rules", []):
            for backend in rule.get("backendRefs", []):
                if backend["name"] in services:
                    ports = {
                        port["port"]: port["name"] for port in services[backend["name"]]["spec"]["ports"]
                    }
                    if ports.get(backend.get("port")) != ROUTES[kind]:
                        yield (
                            f"{kind} {route['metadata']['name']} sends to port {backend.get('port')} of service "
                            f"{backend['name']}, which is not its port {ROUTES[kind]!r}"
                        )
            limit = rule.get("timeouts", {}).get("request")
            if limit is not None and 0 < _seconds(limit) < longest_s:
                yield f"{kind} {route['metadata']['name']} cuts after {limit}, but answers may take {longest_s:g} s"
    for one, other in combinations(made, 2):
        for host in one["spec"].get("hostnames", []):
            if one["kind"] != other["kind"] and any(
                overlap(host, name) for name in other["spec"].get("hostnames", [])
            ):
                yield f"{one['kind']} and {other['kind']} share the host {host}; a listener takes only one of them"


def _seconds(duration: str) -> float:
    """Of a duration such as 1h30m or 500ms."""
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)(ms|h|m|s)", duration))


def policies(m: Manifests) -> Iterator[str]:
    """Every pod has a network policy, every policy selects a pod, and Ray's own ports are not open to everyone."""
    fenced = {pod.group for policy in m.of_kind("NetworkPolicy") for pod in _selected_by(m, policy)}
    for pod in m.pods():
        if pod.group not in fenced:
            yield f"no network policy selects {pod.group}, so every port of it is open"
        for number, what in CLOSED_PORTS.items():
            if _open(m, pod, number):
                yield f"network policy opens {what} ({number}) of {pod.group} to everybody"
        if pod.group not in ("head", "gateway") and any(_open(m, pod, n) for n in (1, 8000, 9000, 65535)):
            yield f"network policy opens the worker ports of {pod.group} to everybody"
    for kind in ("NetworkPolicy", "PodDisruptionBudget"):
        for policy in m.of_kind(kind):
            if not _selected_by(m, policy):
                yield f"{kind} {policy['metadata']['name']} selects no pod"


def _selected_by(m: Manifests, policy: Document) -> list[PodTemplate]:
    spec = policy["spec"]
    return m.selected(spec.get("podSelector", spec.get("selector", {})).get("matchLabels", {}))


def _open(m: Manifests, pod: PodTemplate, number: int) -> bool:
    """Whether anyone may connect to this port."""
    for policy in m.of_kind("NetworkPolicy"):
        if pod.group in {p.group for p in _selected_by(m, policy)}:
            for rule in policy["spec"].get("ingress", []):
                numbers = [port.get("port") for port in rule.get("ports", [])]
                if not rule.get("from") and (not numbers or number in numbers or None in numbers):
                    return True
    return False


# --------------------------------------------------------------------------- pods


def hardening(m: Manifests) -> Iterator[str]:
    """No root, no escalation, a read-only root file system, limits, no secret in plain text."""
    for pod in m.pods():
        if not pod.spec.get("securityContext", {}).get("runAsNonRoot"):
            yield f"{pod.group} may run as root; set securityContext.runAsNonRoot"
        if pod.group != "head" and pod.spec.get("automountServiceAccountToken") is not False:
            yield f"{pod.group} mounts a service account token it has no use for"
        for container in pod.containers:
            yield from (f"{pod.group}/{container['name']} {what}" for what in _soft_spots(container))


def _soft_spots(container: Mapping[str, Any]) -> Iterator[str]:
    security = container.get("securityContext", {})
    if security.get("allowPrivilegeEscalation") is not False:
        yield "may escalate its privileges"
    if "ALL" not in security.get("capabilities", {}).get("drop", []):
        yield "keeps capabilities; drop ALL"
    if not security.get("readOnlyRootFilesystem"):
        yield "writes to its root file system"
    if "memory" not in container.get("resources", {}).get("limits", {}):
        yield "has no memory limit"
    for word in (*container.get("command", []), *container.get("args", [])):
        if (found := SECRET_ARGUMENT.search(str(word))) is not None:
            yield f"has the argument {found.group(1)}, which ps shows to everybody; take it from a Secret"
    for variable in container.get("env", []):
        if "value" in variable and any(word in variable["name"] for word in SECRET_WORDS):
            yield f"has the variable {variable['name']} in the open; take it from a Secret"


def environment(m: Manifests) -> Iterator[str]:
    """Ray's environment variables in pods are the required ones (cluster.runtime.ray_cluster)."""
    for pod in m.pods():
        values = {variable["name"]: variable.get("value") for variable in pod.ray.get("env", [])}
        for name, value in POD_ENVIRONMENT.items():
            if name not in OTHERWISE_IN_PODS and values.get(name) != value:
                yield f"{pod.group}: {name} is {values.get(name)}, it should be {value}"


def files(m: Manifests) -> Iterator[str]:
    """Mounts refer to volumes, and files named in settings are mounted in the pods that read them."""
    args = m.application.get("args", {})
    for pod in m.pods():
        volumes = {volume["name"] for volume in pod.spec.get("volumes", [])}
        for container in pod.containers:
            for mount in container.get("volumeMounts", []):
                if mount["name"] not in volumes:
                    yield f"{pod.group}/{container['name']} mounts {mount['name']}, which is no volume"
        for setting, path in _paths(args):
            needs_it = pod.group != "head" or setting == "api_keys_file"  # the head runs no replica
            if needs_it and not _is_mounted(pod, path):
                yield f"{setting} is {path}, where {pod.group} has nothing mounted"


def _paths(args: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    further = {f"drafts.{name}": tier for name, tier in (args.get("drafts") or {}).items()}
    for role, tier in {"target": args.get("target"), "draft": args.get("draft"), **further}.items():
        model = tier.get("model") if isinstance(tier, Mapping) else tier
        if isinstance(model, str) and model.startswith("/") and not model.startswith("/app/"):
            yield f"{role}.model", model
    for section, name in (("", "api_keys_file"), *(("worker_tls", n) for n in ("certificate", "key", "ca"))):
        path = (args.get(section) or {}).get(name) if section else args.get(name)
        if path:
            yield f"{section}.{name}".strip("."), path


def _is_mounted(pod: PodTemplate, path: str) -> bool:
    parents = {str(parent) for parent in PurePosixPath(path).parents} - {"/"}
    return any(mount["mountPath"] in parents for mount in pod.ray.get("volumeMounts", []))


def traces(m: Manifests) -> Iterator[str]:
    """Network policy lets the pods that export traces reach the collector's port."""
    endpoint = (m.application.get("args", {}).get("traces") or {}).get("endpoint")
    for pod in m.pods():
        named = {v["name"]: v.get("value") for v in pod.ray.get("env", []) if v["name"] in OTEL_ENDPOINTS}
        url = endpoint or next((value for name in OTEL_ENDPOINTS if (value := named.get(name))), None)
        if url is None or pod.group == "head":
            continue
        try:
            address = urlsplit(url)
            port = address.port or (443 if address.scheme == "https" else 80)
        except ValueError as error:
            yield f"{pod.group} sends traces to {url}, which is no address: {error}"
            continue
        if not _reaches(m, pod, port):
            yield f"{pod.group} sends traces to {url}, but no network policy lets it reach port {port}"


def _reaches(m: Manifests, pod: PodTemplate, number: int) -> bool:
    """Whether a pod may connect to this port outside of its own group of pods."""
    fences = [
        policy["spec"]
        for policy in m.of_kind("NetworkPolicy")
        if "Egress" in policy["spec"].get("policyTypes", [])
        and pod.group in {p.group for p in _selected_by(m, policy)}
    ]
    rules = [rule for spec in fences for rule in spec.get("egress", [])]
    return not fences or any(port.get("port") == number for rule in rules for port in rule.get("ports", []))


def references(m: Manifests, existing: frozenset[str]) -> Iterator[str]:
    """Everything that pods and the way in refer to exists."""
    wanted: set[tuple[str, str]] = set()
    for pod in m.pods():
        if account := pod.spec.get("serviceAccountName"):
            wanted.add(("serviceaccount", account))
        for volume in pod.spec.get("volumes", []):
            if "secret" in volume:
                wanted.add(("secret", volume["secret"]["secretName"]))
            if "configMap" in volume:
                wanted.add(("configmap", volume["configMap"]["name"]))
            if "persistentVolumeClaim" in volume:
                wanted.add(("persistentvolumeclaim", volume["persistentVolumeClaim"]["claimName"]))
        wanted |= {("secret", entry["name"]) for entry in pod.spec.get("imagePullSecrets", [])}
        for container in pod.containers:
            for variable in container.get("env", []):
                if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                    wanted.add(("secret", reference["name"]))
            for source in container.get("envFrom", []):
                if "secretRef" in source:
                    wanted.add(("secret", source["secretRef"]["name"]))
    for ingress in m.of_kind("Ingress"):
        wanted |= {("secret", entry["secretName"]) for entry in ingress["spec"].get("tls", [])}
        for rule in ingress["spec"].get("rules", []):
            wanted |= {("service", path["backend"]["service"]["name"]) for path in rule["http"]["paths"]}
    for route in (route for kind in ROUTES for route in m.of_kind(kind)):
        wanted |= {("gateway", parent["name"]) for parent in route["spec"].get("parentRefs", [])}
        for rule in route["spec"].get("rules", []):
            wanted |= {("service", backend["name"]) for backend in rule.get("backendRefs", [])}
    for kind, name in sorted(wanted):
        if f"{kind}/{name}" not in existing and not m.has(kind, name):
            yield f"{kind}/{name} is referred to but not there; create it, or say --existing {kind}/{name}"


RULES: tuple[Rule, ...] = (
    versions,
    application,
    placement,
    orchestrators,
    bounds,
    times,
    ports,
    routes,
    policies,
    hardening,
    environment,
    files,
    traces,
)


# --------------------------------------------------------------------------- what Serve will request


class Deployed:
    """One deployment as Serve will run it: the application's options, overridden by those of the manifest."""

    def __init__(self, deployment: Any, override: Mapping[str, Any]) -> None:
        self.name: str = deployment.name
        options = {**deployment.ray_actor_options, **override.get("ray_actor_options", {})}
        self.labels: dict[str, str] = options.get("label_selector") or {}
        self.resources = {"CPU": options.get("num_cpus", 1) or 0, "GPU": options.get("num_gpus", 0) or 0}
        self.resources |= options.get("resources") or {}
        if kind := options.get("accelerator_type"):
            self.resources[f"accelerator_type:{kind}"] = 0.001
        bundles = (
            override.get("placement_group_bundles") or deployment._replica_config.placement_group_bundles
        )
        if bundles:  # of the ranks, all on one node
            names = dict.fromkeys(name for bundle in bundles for name in bundle)
            self.resources = {name: sum(bundle.get(name, 0) for bundle in bundles) for name in names}
        auto = override.get("autoscaling_config") or deployment._deployment_config.autoscaling_config
        if auto is None or "num_replicas" in override:
            number = override.get("num_replicas", deployment.num_replicas)
            self.replicas = (number, number)
        elif isinstance(auto, Mapping):
            self.replicas = (auto["min_replicas"], auto["max_replicas"])
        else:
            self.replicas = (auto.min_replicas, auto.max_replicas)
        self.per_node: int | None = override.get("max_replicas_per_node")

    def wishes(self) -> str:
        """The requirements as text."""
        wanted = [f"{amount:g} {name}" for name, amount in self.resources.items() if amount]
        return ", ".join([*wanted, *(f"label {key}={value}" for key, value in self.labels.items())])


def served_config(m: Manifests) -> ServeConfig:
    """The settings of the application. Files in ``args`` need not exist here."""
    from cluster.entry import read

    readable = {k: v for k, v in m.application.get("args", {}).items() if k != "api_keys_file"}
    config: ServeConfig = read(readable, {})
    return config


def _deployed(m: Manifests) -> list[Deployed]:
    """Deployments of the application built from ``args``."""
    from cluster.app import build

    config = served_config(m)
    overrides = {d["name"]: d for d in m.application.get("deployments", [])}
    return [Deployed(d, overrides.get(d.name, {})) for d in _graph(build(config, "0.0.0.0"))]


def _graph(application: Any) -> Iterator[Any]:
    """The deployments of a bound application, workers before the orchestrator."""
    from ray.serve import Application

    bound = application._bound_deployment
    for argument in (*bound.init_args, *bound.init_kwargs.values()):
        for inner in argument.values() if isinstance(argument, dict) else (argument,):
            if isinstance(inner, Application):
                yield from _graph(inner)
    yield bound


def _resources(group: Mapping[str, Any]) -> dict[str, float]:
    free = {name: float(amount) for name, amount in group.get("resources", {}).items()}
    return free


def _place(deployment: Deployed, free: list[tuple[Mapping[str, Any], dict[str, float]]]) -> int:
    """Reserve one replica, first fit; returns 1 if there was room, else 0."""
    for group, left in free:
        labels = group.get("labels", {})
        key = f"replicas of {deployment.name}"
        if deployment.per_node is not None and left.get(key, 0) >= deployment.per_node:
            continue
        fits = all(left.get(name, 0.0) + 1e-9 >= n for name, n in deployment.resources.items() if n)
        if fits and all(matches(labels.get(name), wanted) for name, wanted in deployment.labels.items()):
            for name, amount in deployment.resources.items():
                left[name] = left.get(name, 0.0) - amount
            left[key] = left.get(key, 0) + 1
            return 1
    return 0


def _groups_for(deployment: Deployed, m: Manifests) -> set[str]:
    """Names of the groups whose pods have room for a replica."""
    return {group["groupName"] for group in m.groups if _place(deployment, [(group, _resources(group))])}


def _hook_s(pod: PodTemplate) -> float | None:
    """Seconds that the pod's preStop hook waits; None without a hook."""
    command = pod.ray.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", [])
    return float(command[command.index(HOOK_FLAG) + 1]) if HOOK_FLAG in command else None


def _default(setting: str) -> Any:
    from services import settings

    return settings.options()[setting].default
