"""Checks a configuration completely before anything is started."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from adasd.config import EngineConfig
from adasd.errors import ConfigError
from services.config import ServeConfig

GIB = 1024**3


def problems(config: ServeConfig) -> list[str]:
    """One sentence per problem; empty if it can be served here, as far as this machine can tell."""
    found = []
    for role, engine in engines(config):
        tier_found = [f"{role}: {sentence}" for sentence in _problems_of_model(engine)]
        found += tier_found or [f"{role}: {sentence}" for sentence in _memory_problems(engine)]
    if not found:
        found += _problems_of_text(config)
    return found


def absent_folders(config: ServeConfig) -> list[str]:
    """The check that takes no time: models given as a folder that does not exist."""
    return [
        f"{role}: there is no model folder {engine.model}; give a folder or a Hugging Face id (owner/name)"
        for role, engine in engines(config)
        if not Path(engine.model).is_dir()
        and (engine.model.startswith(("/", ".", "~")) or engine.model.count("/") > 1)
    ]


def engines(config: ServeConfig) -> Iterator[tuple[str, EngineConfig]]:
    """Every model's engine settings by the name of its deployment, the target first."""
    yield from ((role, tier.engine) for role, tier in config.tiers.items())


def _problems_of_model(engine: EngineConfig) -> Iterator[str]:
    """Problems with the files and the architecture of one model."""
    from adasd.engine.loading.checkpoint import check_weight_files, load_config
    from adasd.engine.loading.limits import check_architecture, resolve_max_context

    def architecture() -> None:
        model = load_config(engine.model, engine.trust_remote_code)
        check_architecture(model, resolve_max_context(model, engine.max_context))

    yield from _sentences(architecture, lambda: check_weight_files(engine.model))


def _problems_of_text(config: ServeConfig) -> Iterator[str]:
    """Problems with the tokenizer, and whether the draft has the target's vocabulary."""
    from adasd.engine.loading.vocabulary import check_vocabularies
    from adasd.text.tokenizer import Tokenizer

    target = config.target.engine
    drafts = [tier.engine.model for tier in config.draft_tiers.values()]
    for draft in drafts:
        yield from _sentences(partial(check_vocabularies, target.model, draft, target.trust_remote_code))
    if not drafts:
        yield from _sentences(
            lambda: Tokenizer.load(target.model, trust_remote_code=target.trust_remote_code)
        )


def _memory_problems(engine: EngineConfig) -> Iterator[str]:
    """Weights, and on CUDA the cache too, must fit; checked only if the device is on this machine."""
    from adasd.engine.loading.limits import resolve_devices
    from adasd.engine.loading.memory import memory_estimate

    try:
        devices = resolve_devices(engine)
        estimate = memory_estimate(engine)
    except ConfigError as error:
        yield str(error)
        return
    if devices[0].type == "cuda":
        import torch

        needed, available = estimate.total_bytes, sum(torch.cuda.mem_get_info(each)[1] for each in devices)
    else:
        needed, available = estimate.weights_bytes, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > available:
        yield (
            f"{engine.model} needs {needed / GIB:.1f} GiB on {', '.join(map(str, devices))}, which has "
            f"{available / GIB:.1f} GiB; choose a smaller dtype, fewer slots, a shorter max_context or another model"
        )


def _sentences(*checks: Callable[[], object]) -> Iterator[str]:
    """The messages of the checks that fail."""
    for run in checks:
        try:
            run()
        except ConfigError as error:
            yield str(error)
