"""What a request's speculation options come to under the deployment's settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from adasd.config import SpeculationConfig
from adasd.control import sources
from adasd.control.registry import acceptance_policy, drafting_policy
from adasd.errors import ConfigError, InvalidRequest
from adasd.messages import Mode, SpeculationOptions


@dataclass(frozen=True, slots=True)
class EffectiveSpeculation:
    """Options with nothing left open; echoed to the caller."""

    mode: Mode
    drafting: str
    acceptance: str | None  # None unless the mode is adaptive
    max_draft_tokens: int  # per block
    max_relaxed_fraction: float  # of the answer's tokens; 0 unless the mode is adaptive
    gated: bool = False  # rounds run plain while drafting does not pay
    draft: str | None = None  # name of the draft source; None in mode off


def resolve(
    options: SpeculationOptions, config: SpeculationConfig, tiers: Sequence[str] = (sources.MODEL,)
) -> EffectiveSpeculation:
    """Fill in defaults; InvalidRequest naming the field for what this deployment cannot honour.

    ``tiers`` are the names of its draft models, the preferred one first.
    """
    mode = _mode(options, config, tiers)
    draft = _draft(options, config, tiers)
    policy = drafting_policy(options.drafting or config.drafting)
    cap = config.max_draft_tokens
    block = options.max_draft_tokens
    if block is None:
        block = min(policy.default_block or cap, cap)
    if not 1 <= block <= cap:
        raise InvalidRequest(
            f"max_draft_tokens is {block}, but this deployment drafts 1 to {cap} tokens per block; "
            "choose a value in that range",
            "speculation.max_draft_tokens",
        )
    fraction = options.max_relaxed_fraction
    fraction = config.max_relaxed_fraction if fraction is None else fraction
    if not 0 <= fraction <= 1:
        raise InvalidRequest(
            f"max_relaxed_fraction is {fraction}, but a fraction lies between 0 and 1",
            "speculation.max_relaxed_fraction",
        )
    gated = config.bypass and options.drafting is None  # who names a policy gets just that
    if mode is not Mode.ADAPTIVE:
        _refuse_acceptance(options, mode)
        source = None if mode is Mode.OFF else draft
        return EffectiveSpeculation(mode, policy.name, None, block, 0.0, gated, source)
    acceptance = acceptance_policy(options.acceptance or config.acceptance).name
    return EffectiveSpeculation(mode, policy.name, acceptance, block, fraction, gated, draft)


def check_config(config: SpeculationConfig) -> None:
    """Raise ConfigError unless every request that names nothing can be served by these settings."""
    if config.max_draft_tokens < 1 or config.row_len < 1:
        raise ConfigError(
            f"speculation.max_draft_tokens is {config.max_draft_tokens} and speculation.row_len is "
            f"{config.row_len}; both must be at least 1"
        )
    try:
        resolve(SpeculationOptions(mode=Mode.ADAPTIVE), config)
        Mode(config.mode)
    except (InvalidRequest, ValueError) as error:
        raise ConfigError(f"speculation: {error}") from error


def _mode(options: SpeculationOptions, config: SpeculationConfig, tiers: Sequence[str]) -> Mode:
    """Without a draft model nothing is drafted unless somebody asks for it."""
    asked = options.mode or options.draft or config.draft
    if not tiers and not asked:
        return Mode.OFF
    return config.mode if options.mode is None else options.mode


def _draft(options: SpeculationOptions, config: SpeculationConfig, tiers: Sequence[str]) -> str:
    """The source that is named, else the first model, else the look-up that needs none."""
    default = tiers[0] if tiers else sources.SUFFIX
    return sources.choose(options.draft or config.draft or default, tiers)


def _refuse_acceptance(options: SpeculationOptions, mode: Mode) -> None:
    if options.acceptance is not None:
        raise InvalidRequest(
            f"acceptance {options.acceptance!r} only applies in mode 'adaptive', but the mode is "
            f"{mode.value!r}; leave it out or ask for mode 'adaptive'",
            "speculation.acceptance",
        )
