"""What a topology cannot know: which machines, images and volumes a Kubernetes cluster has (``--cluster FILE``)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from adasd.errors import ConfigError

Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Pods(_Strict):
    """The pods of one group; what is not said follows from the topology."""

    cpu: Quantity | None = None  # requested
    memory: Quantity = "4Gi"  # requested and at most used
    node_selector: dict[str, str] = {}
    tolerations: list[dict[str, str]] = []
    shared_memory: Quantity | None = None  # of /dev/shm; None: KubeRay's choice


class Models(_Strict):
    """Where the weights lie: a volume claim, or an object store that an init container copies from."""

    claim: str | None = None
    store: str | None = None  # remote:bucket/folder, in rclone's words
    store_secret: str = "adasd-model-store"  # its keys become variables of rclone (RCLONE_CONFIG_...)
    size: Quantity = "100Gi"  # of the copy on each node

    @model_validator(mode="after")
    def _one(self) -> Models:
        if (self.claim is None) == (self.store is None):
            raise ValueError("give either claim or store")
        return self


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
    """What the Dockerfile's two stages were pushed as, with their tags."""

    cpu: str = "adasd-serve:0.1.0"
    cuda: str = "adasd-serve-cuda:0.1.0"


class Facts(_Strict):
    """All of it."""

    images: Images = Images()
    gateways: Gateways = Gateways()  # type: ignore[call-arg]
    models: Models | None = None
    pods: dict[str, Pods] = {}  # group -> its pods
    gpu_resource: str = "nvidia.com/gpu"
    api_keys_secret: str = "adasd-api-keys"
    worker_tls_secret: str = "adasd-worker-tls"  # tls.crt, tls.key, ca.crt, as cert-manager makes it


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
