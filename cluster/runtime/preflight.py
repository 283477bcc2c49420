"""Checks a configuration completely before anything is started."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from adasd.config import EngineConfig
from adasd.engine.loading.host_memory import host_bytes
from adasd.errors import ConfigError
from cluster.runtime.card_here import bytes_of_card_here
from cluster.topology import too_many_ranks
from services.config import ServeConfig

if TYPE_CHECKING:
    from adasd.engine.loading.memory import MemoryEstimate
    from cluster.cards import Card

GIB = 1024**3


def problems(config: ServeConfig) -> list[str]:
    """One sentence per problem; empty if it can be served here, as far as this machine can tell."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity(
        logging.ERROR
    )  # its hints would be about the small random models that are tried
    found = []
    for role, engine in engines(config):
        found += [f"{role}: {sentence}" for sentence in _problems_of_model(engine)]
        if sentence := too_many_ranks(role, config.tiers[role], os.cpu_count() or 1):
            found.append(sentence)
    found += card_problems(config)
    if not found:
        for role, engine in engines(config):
            found += [f"{role}: {sentence}" for sentence in _memory_problems(engine)]
    if not found:
        found += _problems_of_text(config)
    return found


def card_problems(config: ServeConfig) -> list[str]:
    """Replicas too large for their card, where its memory is known by name or because it is in this machine."""
    from cluster.cards import too_small

    found = []
    for card in cards(config):
        parts = {role: engine for role, engine in engines(config) if role in card.roles}
        with suppress(ConfigError):  # a model that cannot be read is a problem by itself
            sentence = too_small(card, {role: memory_estimate(one) for role, one in parts.items()}, parts)
            found += [sentence] if sentence else []
    return found


def cards(config: ServeConfig) -> list[Card]:
    """The cards of the deployment; one whose kind is not named is taken to be as large as the first one here."""
    from cluster.cards import cards_of

    here = bytes_of_card_here()
    return [
        card if card.num_bytes is not None else replace(card, num_bytes=here) for card in cards_of(config)
    ]


def notes(config: ServeConfig) -> list[str]:
    """What is served with a restriction, in one sentence each: drafts with another vocabulary than the target's."""
    from adasd.engine.loading.vocabulary import difference

    target, found = config.target.engine, []
    for role, engine in engines(config):
        with suppress(ConfigError):  # a model that cannot be read is a problem by itself
            said = (
                None if role == "target" else difference(target.model, engine.model, target.trust_remote_code)
            )
            found += [f"{role}: {said}; it drafts for greedy and seeded requests only"] if said else []
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
    yield from ((role, tier.placed_engine) for role, tier in config.tiers.items())


def _problems_of_model(engine: EngineConfig) -> Iterator[str]:
    """Problems with the files and the architecture of one model."""
    from adasd.engine.loading.checkpoint import check_weight_files
    from adasd.engine.loading.inspection import check_model

    yield from _sentences(lambda: check_model(engine), lambda: check_weight_files(engine.model))


def _problems_of_text(config: ServeConfig) -> Iterator[str]:
    """Problems with the tokenizer, and whether the draft has the target's vocabulary."""
    from adasd.engine.loading.draft import translation_of
    from adasd.engine.loading.vocabulary import check_vocabularies, difference
    from adasd.text.tokenizer import Tokenizer

    target = config.target.engine
    drafts = [tier.engine.model for tier in config.draft_tiers.values()]
    for draft in drafts:

        def vocabularies(draft: str = draft) -> None:
            pair = (target.model, draft, target.trust_remote_code)
            check_vocabularies(*pair) if difference(*pair) is None else translation_of(*pair)

        yield from _sentences(vocabularies)
    if not drafts:
        yield from _sentences(
            lambda: Tokenizer.load(target.model, trust_remote_code=target.trust_remote_code)
        )


def _memory_problems(engine: EngineConfig) -> Iterator[str]:
    """The device must be on this machine; on a CPU the weights must fit (the cache grows with use)."""
    from adasd.engine.loading.limits import resolve_device

    try:
        device, estimate = resolve_device(engine.device), memory_estimate(engine)
    except ConfigError as error:
        yield str(error)
        return
    available = host_bytes()
    if device.type == "cpu" and estimate.weights_bytes > available:
        yield (
            f"{engine.model} needs {estimate.weights_bytes / GIB:.1f} GiB of weights, this machine or container "
            f"has {available / GIB:.1f} GiB; choose a smaller dtype or another model"
        )


def memory_estimate(engine: EngineConfig) -> MemoryEstimate:
    """As in ``adasd.engine.loading.memory``, which is imported late, as it takes seconds."""
    from adasd.engine.loading import memory

    return memory.memory_estimate(engine)


def _sentences(*checks: Callable[[], object]) -> Iterator[str]:
    """The messages of the checks that fail."""
    for run in checks:
        try:
            run()
        except ConfigError as error:
            yield str(error)
