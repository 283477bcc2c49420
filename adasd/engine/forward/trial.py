"""Ways to run a model that has no hand-written forward pass, and which of them is right: tried on a miniature."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Mapping
from types import MappingProxyType

from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from adasd.engine.forward.agreement import check_agreement, reference_logits
from adasd.engine.forward.miniature import NATIVE_CONTEXT, WINDOW, miniature, outgrows, random_model
from adasd.engine.forward.modules import ModuleForward
from adasd.engine.forward.own_attention import OwnAttention
from adasd.engine.forward.protocol import Forward
from adasd.errors import ConfigError

_log = logging.getLogger(__name__)

PROBE_LEN = 2 * max(WINDOW, NATIVE_CONTEXT)
"""Tokens of the longer probe: beyond the miniature's window and its rotary scheme's own context."""

WAYS: Mapping[str, Callable[[PreTrainedModel], Forward]] = MappingProxyType(
    {
        "modules": ModuleForward,
        "own attention": OwnAttention,
        "own attention, alone": functools.partial(OwnAttention, alone=True),
    }
)
"""From fast to slow; each serves more architectures than the one before."""


def module_forward(
    model: PreTrainedModel, like: PreTrainedConfig, max_context: int, trust_remote_code: bool = False
) -> Forward:
    """The fastest way that is right for the architecture ``like``. Modifies the model; raises ConfigError."""
    return WAYS[way_of(like, max_context, trust_remote_code)](model)


def way_of(config: PreTrainedConfig, max_context: int, trust_remote_code: bool = False) -> str:
    """The first of ``WAYS`` in which a miniature of the model agrees with itself.

    Raises ConfigError with the first way's reason if there is none.
    """
    described = {**config.to_dict(), "dtype": None, "_name_or_path": None, "transformers_version": None}
    key = json.dumps([described, outgrows(config, max_context)], default=str, sort_keys=True)
    if key not in _found:
        _found[key] = _try_ways(config, max_context, trust_remote_code)
    found = _found[key]
    if isinstance(found, ConfigError):
        raise found
    return found


def miniature_of(
    config: PreTrainedConfig, max_context: int, trust_remote_code: bool = False
) -> tuple[PreTrainedModel, list[Tensor]]:
    """A miniature of the model and its logits for the probes; ConfigError if it cannot be made or run."""
    name = (config.architectures or [config.model_type])[0]
    try:
        small = miniature(config, beyond_native=outgrows(config, max_context))
        model = random_model(small, trust_remote_code)
        return model, reference_logits(model, PROBE_LEN)
    except ConfigError:
        raise
    except Exception as error:  # a configuration may be anything, and a model's own code may raise anything
        raise ConfigError(
            f"a small {name} cannot be made or run, so it is not served: {_line(error)}"
        ) from error


_found: dict[str, str | ConfigError] = {}


def _try_ways(config: PreTrainedConfig, max_context: int, trust_remote_code: bool) -> str | ConfigError:
    reasons: list[ConfigError] = []
    for way, make in WAYS.items():
        try:
            model, reference = miniature_of(config, max_context, trust_remote_code)
        except ConfigError as error:
            return error
        try:
            check_agreement(make(model), reference, PROBE_LEN)
        except ConfigError as error:
            reasons.append(error)
        except Exception as error:  # as above
            name = type(model).__name__
            reasons.append(ConfigError(f"{name} cannot be run over the engine's cache: {_line(error)}"))
        else:
            _log.debug("%s runs by %s", type(model).__name__, way)
            return way
    return reasons[0]


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
