"""Memory of the GPU tiers of a topology or of manifests, by configuration files alone: no weights and no GPU needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from adasd.config import EngineConfig
from adasd.errors import ConfigError
from cluster.cards import card_bytes, cards_of, said, too_small
from cluster.k8s.facts import Facts
from cluster.k8s.groups import groups_of
from cluster.k8s.manifests import Manifests
from cluster.topology import matches
from services.config import ServeConfig

MODELS_FOLDER = "/models"
PRODUCT = "nvidia.com/gpu.product"
"""The node label that names a GPU, set by NVIDIA's operator."""

Cards = Mapping[str, tuple[str, int | None]]
"""Name and memory of the card of each tier, where they are known."""


def cards_of_facts(config: ServeConfig, facts: Facts) -> Cards:
    """The cards that the node selectors of a cluster file ask for."""
    selectors = {
        role: facts.pods[group.name].node_selector
        for group in groups_of(config, facts)
        if group.name in facts.pods
        for role, _ in group.tiers
    }
    return {role: _card(selector[PRODUCT]) for role, selector in selectors.items() if PRODUCT in selector}


def cards_of_manifests(config: ServeConfig, m: Manifests) -> Cards:
    """The cards that the node selectors of the worker groups ask for."""
    found: dict[str, tuple[str, int | None]] = {}
    for role, tier in config.tiers.items():
        for group in m.cluster.get("workerGroupSpecs", []):
            labels = group.get("labels", {})
            product = group["template"]["spec"].get("nodeSelector", {}).get(PRODUCT)
            if product and all(matches(labels.get(key), wanted) for key, wanted in tier.label_selector):
                found.setdefault(role, _card(product))
    return found


def _card(product: str) -> tuple[str, int | None]:
    return product, card_bytes(product)


def memory_report(config: ServeConfig, cards: Cards, models: Path | None) -> tuple[list[str], list[str]]:
    """What each GPU tier needs, and what does not fit on its card: one sentence each.

    ``models`` is the folder here that stands for ``/models`` in the pods; configuration files are enough.
    """
    from adasd.engine.loading.memory import memory_estimate

    engines = {role: one for role, one in _gpu_engines(config)}
    needs, estimates, local = [], {}, {}
    of_tier = {role: card for card in cards_of(config, cards) for role in card.roles}
    for role, engine in engines.items():
        folder = _folder(engine.model, models)
        if folder is None:
            needs.append(
                f"{role}: memory not checked, as there is no config.json of {engine.model} here (--models)"
            )
            continue
        local[role] = replace(engine, model=str(folder))
        try:
            estimates[role] = memory_estimate(local[role])
        except ConfigError as error:
            needs.append(f"{role}: memory not checked: {error}")
            continue
        card = of_tier[role]
        size = "" if card.num_bytes is None else f" of {card.num_bytes / 1024**3:.1f} GiB"
        needs.append(f"{role}: {said(estimates[role], engine, card.num_bytes)}, on {card.name}{size}")
    found = [
        sentence
        for card in cards_of(config, cards)
        if all(role in estimates for role in card.roles)
        and (sentence := too_small(card, estimates, local)) is not None
    ]
    return needs, found


def _gpu_engines(config: ServeConfig) -> Iterator[tuple[str, EngineConfig]]:
    for role, tier in config.tiers.items():
        if tier.placed_engine.device.startswith("cuda"):
            yield role, tier.placed_engine


def _folder(model: str, models: Path | None) -> Path | None:
    """Where the model's configuration is on this machine; None if it is not."""
    inside = model.removeprefix(f"{MODELS_FOLDER}/")
    here = [Path(model)] + ([] if models is None else [models / inside, models / Path(model).name])
    return next((folder for folder in here if (folder / "config.json").is_file()), None)
