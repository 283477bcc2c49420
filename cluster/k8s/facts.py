"""What a topology does not say: machines, images, volumes and the way in of a Kubernetes cluster (``--cluster``)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from adasd.errors import ConfigError

Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Name = Annotated[str, Field(min_length=1)]
Host = Annotated[
    str,
    Field(
        max_length=253, pattern=r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
    ),
]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class Toleration(_Strict):
    """As in a pod's ``tolerations``."""

    key: str | None = None
    operator: Literal["Exists", "Equal"] | None = None
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    tolerationSeconds: int | None = None  # with NoExecute: how long the pod stays

    @model_validator(mode="after")
    def _only_with_no_execute(self) -> Toleration:
        if self.tolerationSeconds is not None and self.effect != "NoExecute":
            raise ValueError("tolerationSeconds needs effect: NoExecute")
        return self


class Pods(_Strict):
    """The pods of one group; unset values follow from the topology."""

    cpu: Quantity | None = None  # request
    memory: Quantity | None = None  # request and limit; pods with GPUs need one
    node_selector: dict[str, str] = {}
    tolerations: list[Toleration] = []
    shared_memory: Quantity | None = None  # of /dev/shm; None: KubeRay's default


class Models(_Strict):
    """Where the weights are: a volume claim, or an object store that an init container copies from."""

    claim: str | None = None
    store: str | None = None  # remote:bucket/folder, in rclone's notation
    store_secret: str = "adasd-model-store"  # its keys become rclone's variables (RCLONE_CONFIG_...)
    size: Quantity = "100Gi"  # of the copy on each node

    @model_validator(mode="after")
    def _one(self) -> Models:
        if (self.claim is None) == (self.store is None):
            raise ValueError("give either claim or store")
        return self


class FromSecret(_Strict):
    """The value of a variable, from a Secret of the namespace."""

    secret: Name
    key: Name


class Ingress(_Strict):
    """The way in for HTTP: an Ingress before the service."""

    host: Name
    class_name: Name | None = None  # None: the cluster's default
    tls_secret: Name | None = None  # tls.crt and tls.key for the host; None: no TLS
    annotations: dict[str, str] = {}  # the controller's own, such as time limits


class Route(_Strict):
    """The way in by a Gateway of the Gateway API that is there already: an HTTPRoute, and a GRPCRoute for gRPC.

    The two need hosts of their own, since a Gateway's listener takes only one kind of route for a host.
    """

    gateway: Name
    namespace: Name | None = None  # the Gateway's; None: the one of the service
    listener: Name | None = None  # one of the Gateway's; None: all that admit the routes
    host: Host
    grpc_host: Host | None = None  # None: gRPC is not reached from outside

    @model_validator(mode="after")
    def _hosts_differ(self) -> Route:
        if self.grpc_host is not None and overlap(self.host, self.grpc_host):
            raise ValueError(
                f"host {self.host} and grpc_host {self.grpc_host} overlap; a listener takes only one kind of route "
                "for a host, so give gRPC another one"
            )
        return self


def overlap(one: str, other: str) -> bool:
    """Whether a host name matches both; ``*.`` at the front stands for one or more labels."""
    if one == other:
        return True
    return any(
        a.startswith("*.") and b.removeprefix("*").endswith(a[1:]) for a, b in ((one, other), (other, one))
    )


class Gateways(_Strict):
    """Orchestrator replicas, one per gateway pod."""

    min: int = Field(1, ge=1)
    max: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> Gateways:
        if self.min > self.max:
            raise ValueError(f"min is {self.min}, but max is {self.max}")
        return self


class Images(_Strict):
    """Names and tags of the pushed images of the Dockerfile's two stages."""

    cpu: str = "adasd-serve:0.1.0"
    cuda: str = "adasd-serve-cuda:0.1.0"


class Facts(_Strict):
    """The whole file."""

    images: Images = Images()
    gateways: Gateways | None = None  # None: as many as the topology's orchestrator.replicas
    models: Models | None = None
    pods: dict[str, Pods] = {}  # group -> its pods
    env: dict[Variable, str | FromSecret] = {}  # of Ray's container in every pod
    image_pull_secrets: list[Name] = []
    ingress: Ingress | None = None
    route: Route | None = None
    gpu_resource: str = "nvidia.com/gpu"
    api_keys_secret: str = "adasd-api-keys"
    worker_tls_secret: str = "adasd-worker-tls"  # tls.crt, tls.key, ca.crt, as created by cert-manager


def read(file: Path | None) -> Facts:
    """ConfigError with one sentence per problem; without a file, the defaults."""
    if file is None:
        return Facts()
    try:
        content: Any = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        return Facts.model_validate(content)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read {file}: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        lines = (
            f"{file}: {'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg'].lower()}"
            for e in error.errors()
        )
        raise ConfigError("\n".join(lines)) from error
