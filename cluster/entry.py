"""The application that a Serve config file names: ``import_path: cluster.entry:app``, settings under ``args``.

The settings are those of ``adasd serve``'s YAML file, with the same nested names. They are read where Serve
builds the application, so variables (``ADASD_...``) and files (API keys) must be present there, in the pod.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from ray.serve import Application

from services import settings
from services.config import ServeConfig

WORKER_HOST = "0.0.0.0"
"""Workers listen on their node's address, since the orchestrator may be on another node."""


def app(args: dict[str, Any]) -> Application:
    """What ``serve deploy`` runs. ConfigError with one sentence per problem in ``args``."""
    from cluster.app import build  # imports torch, which reading the settings does not need

    return build(read(args, os.environ), WORKER_HOST)


def read(args: Mapping[str, Any], environment: Mapping[str, str]) -> ServeConfig:
    """The settings; without a target, the demo pair. ``args`` override the environment."""
    from cluster.data import DEMO

    return settings.load(dict(flat(args)), environment, demo=DEMO)


def flat(args: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names: ``{target: {num_slots: 4}}`` becomes ``target.num_slots``."""
    for key, value in args.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and settings.is_section(name):
            yield from flat(value, f"{name}.")
        else:
            yield name, value
