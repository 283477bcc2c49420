"""``adasd k8s render``: converts a topology for ``adasd serve`` to a Kustomize overlay over ``k8s/base``.

The pods of the tiers are copies of the base's gateway pod, so that the hardening of pods is defined in one place.
Times follow from the longest answer: longest stream < drain < preStop hook that waits for it < the pod's grace period.
"""

from __future__ import annotations

import copy
import math
import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from adasd.errors import ConfigError
from cluster.data import BASE
from cluster.k8s.facts import Facts, FromSecret, Gateways, Ingress, Route
from cluster.k8s.groups import GATEWAY, POOL, PodGroup, gateways_of, groups_of
from cluster.topology import METRICS_CPUS, ORCHESTRATOR_CPUS
from services import settings
from services.config import ServeConfig

KEYS_FOLDER = "/etc/adasd/keys"
MODELS_FOLDER = "/models"
TLS_FOLDER = "/etc/adasd/tls"
TLS_FILES = {"certificate": "tls.crt", "key": "tls.key", "ca": "ca.crt"}
FILES = ("api_keys_file", "worker_tls")
"""Settings of the topology that name files of a Secret; null is the same as leaving them out."""
RCLONE_IMAGE = "rclone/rclone:1.71.2"
DEFAULT_PORTS = {"http": 80, "https": 443}
PICKER_LABELS = ("llm-d.ai/engine-type", "inference.networking.k8s.io/engine-type")
"""Labels by which an endpoint picker recognises pods that answer requests."""
OPEN_PORTS = (443, 6443)
"""Ports that the base's network policy lets every pod reach anywhere."""
IN_PODS = {"host": "0.0.0.0", "port": 8000, "grpc_port": 9000}
"""Settings whose values are fixed by the pods, services and policies of the base."""
HEADER = (
    "# Written by `adasd k8s render --topology topology.yaml --cluster cluster.yaml`: change those two and render\n"
    "# again, or put an overlay of your own on top.\n"
)


@dataclass(frozen=True, slots=True)
class Overlay:
    """Files by name, and what must exist in the cluster before they are applied: ``secret/NAME``, ..."""

    files: dict[str, str]
    needs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Times:
    """Durations in seconds that depend on each other; ``stream_s`` is the longest answer."""

    stream_s: int

    @property
    def drain_s(self) -> int:
        """Time that Serve gives a replica to finish its sessions."""
        return self.stream_s + 15

    @property
    def hook_s(self) -> int:
        """Time that a pod's preStop hook waits for draining."""
        return self.stream_s + 30

    @property
    def grace_s(self) -> int:
        """Time until Kubernetes kills the pod, and until KubeRay deletes a replaced cluster."""
        return self.stream_s + 60


def render(topology: Path, facts: Facts, out: Path, base: Path = BASE) -> Overlay:
    """The overlay for the folder ``out``. ConfigError with one sentence per problem."""
    args = _read(topology)
    config = topology_config(topology, facts)
    if config.tls.is_on:
        raise ConfigError(
            "tls: on Kubernetes TLS for clients ends at the ingress; leave it out of the topology"
        )
    _check_models(config, facts)
    _check_secrets(args, facts)
    _check_gateways(args, config, facts)
    if not (base / "ray-service.yaml").is_file():
        raise ConfigError(f"there is no {base}/ray-service.yaml; run this from a source tree or name --base")
    mold = yaml.safe_load((base / "ray-service.yaml").read_text(encoding="utf-8"))
    groups = groups_of(config, facts)
    parts = Parts(config, args, facts, Times(math.ceil(config.request_timeout_s)), mold)
    further = {
        "disruption-budgets.yaml": [
            _budget(group) for group in groups if group.name != GATEWAY and group.max_pods > 1
        ],
        "ingress.yaml": [_ingress(facts.ingress)] if facts.ingress else [],
        "routes.yaml": list(_routes(facts.route, parts.times)) if facts.route else [],
        "traces-policy.yaml": list(_traces_policy(config.traces.endpoint)),
    }
    resources = {name: HEADER + "---\n".join(map(_yaml, made)) for name, made in further.items() if made}
    kustomization = _kustomization(facts, [os.path.relpath(base, out), *resources])
    files = {
        "kustomization.yaml": HEADER + _yaml(kustomization),
        "ray-service.patch.yaml": HEADER + _yaml(list(parts.patch(groups))),
        **resources,
    }
    return Overlay(files, tuple(dict.fromkeys(parts.needs())))


def _check_secrets(args: Mapping[str, Any], facts: Facts) -> None:
    """A Secret that is named but not asked for would leave the service without keys, or its links in the clear."""
    asked = {"api_keys_secret": "api_keys_file", "worker_tls_secret": "worker_tls"}
    for secret, setting in asked.items():
        if secret in facts.model_fields_set and setting not in args:
            raise ConfigError(
                f"{secret}: nothing would read it, as the topology has no {setting}; set that there, or leave this out"
            )


def _check_gateways(args: Mapping[str, Any], config: ServeConfig, facts: Facts) -> None:
    """The topology and the cluster file agree on the number of orchestrators, where both name it."""
    asked, most = config.orchestrator.replicas, gateways_of(config, facts).max
    if "orchestrator.replicas" in dict(_flat_without_files(args)) and asked != most:
        raise ConfigError(
            f"orchestrator.replicas is {asked} in the topology, but gateways.max is {most} in the file of --cluster; "
            "leave one of the two out"
        )


def topology_config(topology: Path, facts: Facts) -> ServeConfig:
    """The settings in a topology file. Keys and certificates are files in the pods; only their names matter here."""
    return settings.load(
        dict(_flat_without_files(_read(topology))), _otel(facts), demo=Path("/app/models/demo")
    )


@dataclass(frozen=True, slots=True)
class Parts:
    """Inputs for all parts of one RayService."""

    config: ServeConfig
    args: Mapping[str, Any]  # content of the topology file
    facts: Facts
    times: Times
    mold: Mapping[str, Any]  # the base's RayService

    def patch(self, groups: list[PodGroup]) -> Iterator[dict[str, Any]]:
        """JSON6902 operations on the base's RayService."""
        cluster = "/spec/rayClusterConfig"
        head = copy.deepcopy(self.mold["spec"]["rayClusterConfig"]["headGroupSpec"]["template"])
        self._times_and_files(head["spec"], None)
        yield _replace("/spec/rayClusterDeletionDelaySeconds", self.times.grace_s)
        yield _replace("/spec/serveConfigV2", _Block(_yaml(self.serve_config(groups))))
        yield _replace(f"{cluster}/headGroupSpec/template", head)
        yield _replace(f"{cluster}/workerGroupSpecs", [self.worker_group(group) for group in groups])

    def serve_config(self, groups: list[PodGroup]) -> dict[str, Any]:
        """Serve's configuration; names of deployments are those of cluster.app."""
        tiers = [role for group in groups for role, _ in group.tiers]
        gateways = gateways_of(self.config, self.facts)
        drain = {"graceful_shutdown_timeout_s": self.times.drain_s}
        orchestrator = {
            "name": "orchestrator",
            **_scaling(gateways, self.config),
            "max_replicas_per_node": 1,  # each replica takes the gateway pod's gRPC port
            "ray_actor_options": {"num_cpus": ORCHESTRATOR_CPUS, "label_selector": {POOL: GATEWAY}},
            **drain,
        }
        metrics = {
            "name": "metrics",
            "ray_actor_options": {"num_cpus": METRICS_CPUS, "label_selector": {POOL: GATEWAY}},
        }
        workers = [{"name": role, **drain} for role in sorted(tiers)]
        return {
            "proxy_location": "EveryNode",
            "http_options": {"host": IN_PODS["host"], "port": IN_PODS["port"]},
            "logging_config": {"encoding": "JSON"},
            "applications": [
                {
                    "name": "adasd",
                    "route_prefix": "/",
                    "import_path": "cluster.entry:app",
                    "args": {**_with_replicas(_in_pods(self.args), gateways.max), **IN_PODS},
                    "deployments": [orchestrator, metrics, *workers],
                }
            ],
        }

    def worker_group(self, group: PodGroup) -> dict[str, Any]:
        """A group's pods, copied from the gateway's."""
        spec: dict[str, Any] = copy.deepcopy(self.mold["spec"]["rayClusterConfig"]["workerGroupSpecs"][0])
        pod = spec["template"]["spec"]
        spec |= {
            "groupName": group.name,
            "minReplicas": group.min_pods,
            "maxReplicas": group.max_pods,
            "replicas": group.min_pods,
            "labels": group.labels,
            "resources": _ray_resources(group),
        }
        spec["template"]["metadata"]["labels"]["app.kubernetes.io/component"] = group.name
        for constraint in pod["topologySpreadConstraints"]:
            constraint["labelSelector"]["matchLabels"]["app.kubernetes.io/component"] = group.name
        if group.name != GATEWAY:
            for label in PICKER_LABELS:
                spec["template"]["metadata"]["labels"].pop(label, None)
            # KubeRay's own probes suit pods that receive no traffic.
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                pod["containers"][0].pop(probe, None)
            ports = pod["containers"][0]["ports"]
            pod["containers"][0]["ports"] = [port for port in ports if port["name"] == "metrics"]
        self._size(group, pod)
        self._times_and_files(pod, group)
        return spec

    def needs(self) -> Iterator[str]:
        """What the overlay refers to but does not contain."""
        if "api_keys_file" in self.args:
            yield f"secret/{self.facts.api_keys_secret}"
        if "worker_tls" in self.args:
            yield f"secret/{self.facts.worker_tls_secret}"
        models = self.facts.models
        if models and models.claim:
            yield f"persistentvolumeclaim/{models.claim}"
        if models and models.store:
            yield f"secret/{models.store_secret}"
        yield from (f"secret/{name}" for name in self.facts.image_pull_secrets)
        yield from (f"secret/{v.secret}" for v in self.facts.env.values() if isinstance(v, FromSecret))
        if self.facts.ingress and self.facts.ingress.tls_secret:
            yield f"secret/{self.facts.ingress.tls_secret}"
        if self.facts.route:
            yield f"gateway/{self.facts.route.gateway}"

    # ----------------------------------------------------------------- parts of a pod

    def _size(self, group: PodGroup, pod: dict[str, Any]) -> None:
        wanted = self.facts.pods.get(group.name)
        container = pod["containers"][0]
        if group.num_gpus:
            container["image"] += "-cuda"
        memory = wanted.memory if wanted else None
        if memory is None and group.num_gpus:
            raise ConfigError(
                f"pods.{group.name}: memory is missing; a pod that loads {', '.join(r for r, _ in group.tiers)} "
                "needs room for the weights, for example memory: 96Gi"
            )
        memory = memory or ("4Gi" if group.tiers else "2Gi")
        cpu = wanted.cpu if wanted and wanted.cpu else str(group.num_cpus)
        limits: dict[str, Any] = {"memory": memory}
        if group.num_gpus:
            limits[self.facts.gpu_resource] = group.num_gpus
        container["resources"] = {"requests": {"cpu": cpu, "memory": memory}, "limits": limits}
        tolerations = [t.model_dump(exclude_none=True) for t in wanted.tolerations] if wanted else []
        if group.num_gpus:
            tolerations.append({"key": self.facts.gpu_resource, "operator": "Exists", "effect": "NoSchedule"})
        if wanted and wanted.node_selector:
            pod["nodeSelector"] = wanted.node_selector
        if tolerations:
            pod["tolerations"] = tolerations
        if wanted and wanted.shared_memory:
            memory_disk = {"medium": "Memory", "sizeLimit": wanted.shared_memory}
            pod["volumes"].append({"name": "shared-memory", "emptyDir": memory_disk})
            container["volumeMounts"].append({"name": "shared-memory", "mountPath": "/dev/shm"})

    def _times_and_files(self, pod: dict[str, Any], group: PodGroup | None) -> None:
        """``group`` is None for the head, which runs no replica."""
        container = pod["containers"][0]
        self._variables(container)
        if self.facts.image_pull_secrets:
            pod["imagePullSecrets"] = [{"name": name} for name in self.facts.image_pull_secrets]
        pod["terminationGracePeriodSeconds"] = self.times.grace_s
        container["lifecycle"]["preStop"]["exec"]["command"][-1] = str(self.times.hook_s)
        if "api_keys_file" in self.args:  # Serve may build the application on any node
            _mount(pod, "api-keys", {"secret": {"secretName": self.facts.api_keys_secret}}, KEYS_FOLDER)
        if group is not None and "worker_tls" in self.args:
            _mount(pod, "worker-tls", {"secret": {"secretName": self.facts.worker_tls_secret}}, TLS_FOLDER)
        if group is not None and self.facts.models is not None:
            self._models(pod, group)

    def _variables(self, container: dict[str, Any]) -> None:
        fixed = {variable["name"] for variable in container["env"]}
        for name, value in self.facts.env.items():
            if name in fixed:
                raise ConfigError(f"env: {name} is set by the pods themselves; leave it out")
            source = (
                {"secretKeyRef": {"name": value.secret, "key": value.key}}
                if isinstance(value, FromSecret)
                else None
            )
            content = {"valueFrom": source} if source else {"value": value}
            container["env"].append({"name": name, **content})

    def _models(self, pod: dict[str, Any], group: PodGroup) -> None:
        models = self.facts.models
        assert models is not None
        if models.claim:
            claim = {"persistentVolumeClaim": {"claimName": models.claim, "readOnly": True}}
            _mount(pod, "models", claim, MODELS_FOLDER)
            return
        _mount(pod, "models", {"emptyDir": {"sizeLimit": models.size}}, MODELS_FOLDER)
        loader = {
            "name": "copy-models",
            "image": RCLONE_IMAGE,
            "command": ["sh", "-ec", "\n".join(self._copies(group))],
            "envFrom": [{"secretRef": {"name": models.store_secret}}],
            "env": [{"name": "RCLONE_CONFIG", "value": "/tmp/rclone.conf"}],
            "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "1Gi"}},
            "securityContext": copy.deepcopy(pod["containers"][0]["securityContext"]),
            "volumeMounts": [
                {"name": "tmp", "mountPath": "/tmp"},
                {"name": "models", "mountPath": MODELS_FOLDER},
            ],
        }
        pod["initContainers"] = [loader]

    def _copies(self, group: PodGroup) -> Iterator[str]:
        """Weights are copied only to pods that load them; every pod reads the target's tokenizer and configuration."""
        models, roles = self.facts.models, {role for role, _ in group.tiers}
        assert models is not None
        for role, tier in self.config.tiers.items():
            if not tier.engine.model.startswith(f"{MODELS_FOLDER}/"):
                continue
            if role == "target" or role in roles:
                folder = tier.engine.model.removeprefix(f"{MODELS_FOLDER}/")
                without = "" if role in roles else " --exclude '*.safetensors'"
                source, to = shlex.quote(f"{models.store}/{folder}"), shlex.quote(f"{MODELS_FOLDER}/{folder}")
                yield f"rclone copy --transfers 8{without} {source} {to}"


# --------------------------------------------------------------------------- reading


def _read(topology: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(topology.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the topology {topology}: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict | None):
        raise ConfigError(f"{topology}: expected names and values, found {type(content).__name__}")
    args = content or {}
    keys = args.get("api_keys_file")
    if keys is not None and not (isinstance(keys, str) and Path(keys).name):
        raise ConfigError(f"{topology}: api_keys_file: {keys!r} is not the name of a file")
    return {name: value for name, value in args.items() if name not in FILES or value is not None}


def _flat_without_files(args: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    from cluster.entry import flat

    for name, value in flat(args):
        if name != "api_keys_file" and not name.startswith("worker_tls."):
            yield name, value


def _otel(facts: Facts) -> dict[str, str]:
    """Variables of the pods that say where traces go."""
    return {
        name: value
        for name, value in facts.env.items()
        if name.startswith("OTEL_") and isinstance(value, str)
    }


def _in_pods(args: Mapping[str, Any]) -> dict[str, Any]:
    """The topology with the paths that its files have in a pod."""
    moved = dict(args)
    if "api_keys_file" in moved:
        moved["api_keys_file"] = f"{KEYS_FOLDER}/{Path(moved['api_keys_file']).name}"
    if "worker_tls" in moved:
        files = {name: f"{TLS_FOLDER}/{file}" for name, file in TLS_FILES.items()}
        moved["worker_tls"] = {**moved["worker_tls"], **files}
    return moved


def _with_replicas(args: Mapping[str, Any], num: int) -> dict[str, Any]:
    """The topology with the number of orchestrators: each takes its share of queues and of limits of API keys."""
    others = {name: value for name, value in args.items() if name != "orchestrator.replicas"}
    return {**others, "orchestrator": {**others.get("orchestrator", {}), "replicas": num}}


def _check_models(config: ServeConfig, facts: Facts) -> None:
    """A pod can load models from the image, from mounted volumes and from the hub, but not from this machine."""
    for role, tier in config.tiers.items():
        model = tier.engine.model
        if model.startswith(f"{MODELS_FOLDER}/"):
            if facts.models is None:
                raise ConfigError(
                    f"{role}.model is {model}, but nothing is mounted there; name a volume or a store: "
                    "models: {claim: NAME} in the file of --cluster"
                )
        elif model.startswith((".", "~", "/")) and not model.startswith("/app/"):
            raise ConfigError(
                f"{role}.model is {model}, a folder of this machine; in the cluster models have a hub's id or "
                f"lie below {MODELS_FOLDER}"
            )


# --------------------------------------------------------------------------- writing


def _scaling(bounds: Gateways, config: ServeConfig) -> dict[str, Any]:
    if bounds.min == bounds.max:
        return {"num_replicas": bounds.min}
    return {
        "autoscaling_config": {
            "min_replicas": bounds.min,
            "max_replicas": bounds.max,
            "target_ongoing_requests": round(0.7 * config.max_ongoing_requests, 1),
            "upscale_delay_s": 5.0,
            "downscale_delay_s": 300.0,
        }
    }


def _ray_resources(group: PodGroup) -> dict[str, str]:
    resources = {"CPU": str(group.num_cpus)}
    if group.num_gpus:
        resources["GPU"] = str(group.num_gpus)
    return resources | {name: f"{amount:g}" for name, amount in group.resources.items()}


def _mount(pod: dict[str, Any], name: str, volume: dict[str, Any], path: str) -> None:
    pod["volumes"].append({"name": name, **volume})
    pod["containers"][0]["volumeMounts"].append({"name": name, "mountPath": path, "readOnly": True})


def _budget(group: PodGroup) -> dict[str, Any]:
    labels = {"app.kubernetes.io/name": "adasd", "app.kubernetes.io/component": group.name}
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": f"adasd-{group.name}"},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": labels}},
    }


def _ingress(wanted: Ingress) -> dict[str, Any]:
    backend = {"service": {"name": "adasd", "port": {"name": "http"}}}
    spec: dict[str, Any] = {} if wanted.class_name is None else {"ingressClassName": wanted.class_name}
    if wanted.tls_secret:
        spec["tls"] = [{"hosts": [wanted.host], "secretName": wanted.tls_secret}]
    paths = [{"path": "/", "pathType": "Prefix", "backend": backend}]
    metadata: dict[str, Any] = {"name": "adasd"}
    if wanted.annotations:
        metadata["annotations"] = wanted.annotations
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": metadata,
        "spec": {**spec, "rules": [{"host": wanted.host, "http": {"paths": paths}}]},
    }


def _routes(wanted: Route, times: Times) -> Iterator[dict[str, Any]]:
    """A way for HTTP that lets an answer take as long as the service does, and one for gRPC."""
    parent = {"name": wanted.gateway, "namespace": wanted.namespace, "sectionName": wanted.listener}
    kinds = {"HTTPRoute": (wanted.host, 8000, {"timeouts": {"request": f"{times.stream_s}s"}})}
    if wanted.grpc_host is not None:
        kinds["GRPCRoute"] = (wanted.grpc_host, 9000, {})
    for kind, (host, port, more) in kinds.items():
        yield {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": kind,
            "metadata": {"name": "adasd"},
            "spec": {
                "parentRefs": [{name: value for name, value in parent.items() if value is not None}],
                "hostnames": [host],
                "rules": [{"backendRefs": [{"name": "adasd", "port": port}], **more}],
            },
        }


def _traces_policy(endpoint: str | None) -> Iterator[dict[str, Any]]:
    """Lets pods reach the collector: its port, in its namespace if the address names one (NAME.NAMESPACE.svc...)."""
    if endpoint is None:
        return
    address = urlsplit(endpoint)
    port = address.port or DEFAULT_PORTS[address.scheme]
    if port in OPEN_PORTS:
        return
    rule: dict[str, Any] = {"ports": [{"protocol": "TCP", "port": port}]}
    _, _, rest = (address.hostname or "").partition(".")
    namespace, _, kind = rest.partition(".")
    if kind.split(".")[0] == "svc":
        rule = {
            "to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}],
            **rule,
        }
    yield {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "adasd-traces"},
        "spec": {
            "podSelector": {"matchLabels": {"app.kubernetes.io/name": "adasd"}},
            "policyTypes": ["Egress"],
            "egress": [rule],
        },
    }


def _kustomization(facts: Facts, resources: list[str]) -> dict[str, Any]:
    images = [("adasd-serve", facts.images.cpu), ("adasd-serve-cuda", facts.images.cuda)]
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "adasd",
        "resources": resources,
        "patches": [
            {"path": "ray-service.patch.yaml", "target": {"kind": "RayService", "name": "adasd"}},
        ],
        "images": [_image(name, wanted) for name, wanted in images],
    }


def _image(name: str, wanted: str) -> dict[str, str]:
    place, sign, tag = wanted.rpartition(":")
    if not sign or "/" in tag:
        raise ConfigError(f"images: {wanted!r} has no tag; pin one, for example {wanted}:0.1.0")
    return {"name": name, "newName": place, "newTag": tag}


def _replace(path: str, value: Any) -> dict[str, Any]:
    return {"op": "replace", "path": path, "value": value}


class _Block(str):
    """A text that YAML writes as a literal block."""


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(
    _Block, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", str(text), style="|")
)


def _yaml(content: Any) -> str:
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=110)
