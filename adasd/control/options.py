"""A request's speculation options, completed and checked by the deployment's settings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from adasd.config import SpeculationConfig
from adasd.control import draft_sources
from adasd.errors import ConfigError, InvalidRequest
from adasd.methods.registry import (
    DEFAULT_DRAFTING,
    EXACT_TESTS,
    acceptance_method,
    acceptance_methods,
    drafting_method,
    exact_test,
    spelled,
)
from adasd.requests import Mode, SpeculationOptions
from adasd.rounds import SamplingTransform


@dataclass(frozen=True, slots=True)
class EffectiveSpeculation:
    """Options with all defaults filled in; echoed to the caller."""

    mode: Mode
    drafting: str
    acceptance: str | None  # None for token by token in mode exact, and in mode off
    max_draft_tokens: int  # per block
    max_relaxed_fraction: float  # of the answer's tokens; 0 unless the mode is adaptive
    may_bypass: bool = False  # rounds run plain while drafting does not pay
    draft: str | None = None  # name of the draft source; None in mode off
    max_distortion: float = math.inf  # largest total variation from relaxation, summed over the answer

    @property
    def options(self) -> SpeculationOptions:
        """As a request's options, with None for no limit."""
        values = {one.name: getattr(self, one.name) for one in fields(SpeculationOptions)}
        return SpeculationOptions(
            **{name: None if value == math.inf else value for name, value in values.items()}
        )

    @property
    def relaxation(self) -> str | None:
        """The acceptance method that relaxes; None: nothing is relaxed."""
        return self.acceptance if self.mode is Mode.ADAPTIVE else None

    @property
    def whole_block(self) -> bool:
        """Whether blocks are verified as a whole."""
        return self.mode is Mode.EXACT and self.acceptance == "block"


def resolve(
    options: SpeculationOptions, config: SpeculationConfig, tiers: Sequence[str] = (draft_sources.MODEL,)
) -> EffectiveSpeculation:
    """Fill in defaults; InvalidRequest, which names the field, if this deployment cannot honour an option.

    ``tiers`` are the names of its draft models, the preferred one first.
    """
    mode = _mode(options, config, tiers)
    draft = _draft(options, config, tiers)
    method = drafting_method(options.drafting or config.drafting or DEFAULT_DRAFTING[mode])
    cap = config.max_draft_tokens
    block = options.max_draft_tokens
    if block is None:
        block = min(method.default_block or cap, cap)
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
    may_bypass = config.bypass and options.drafting is None  # a method named by the request is always used
    distortion = config.max_distortion if options.max_distortion is None else options.max_distortion
    distortion = math.inf if distortion is None else distortion
    if not distortion >= 0:
        raise InvalidRequest(
            f"max_distortion is {distortion}, but a total variation is 0 or more",
            "speculation.max_distortion",
        )
    if mode is not Mode.ADAPTIVE:
        rule = _exact_acceptance(options, config, mode)
        source = None if mode is Mode.OFF else draft
        return EffectiveSpeculation(mode, spelled(method), rule, block, 0.0, may_bypass, source, 0.0)
    acceptance = spelled(acceptance_method(options.acceptance or config.acceptance))
    return EffectiveSpeculation(
        mode, spelled(method), acceptance, block, fraction, may_bypass, draft, distortion
    )


def check_transform(
    options: SpeculationOptions, effective: EffectiveSpeculation, transform: SamplingTransform
) -> EffectiveSpeculation:
    """The options for a request with this sampling transform.

    Block verification applies to rejection sampling, not to matching (greedy, seeded). There it is refused if the
    request names it; as the deployment's default it is replaced by the test token by token.
    """
    if not effective.whole_block or not (transform.greedy or transform.seed is not None):
        return effective
    if options.acceptance is not None:
        kind = "greedy decoding" if transform.greedy else "a seed"
        raise InvalidRequest(
            f"acceptance {effective.acceptance!r} acts on rejection sampling, and with {kind} tokens are "
            "matched instead; sample without a seed, or leave it out",
            "speculation.acceptance",
        )
    return replace(effective, acceptance=None)


def check_config(config: SpeculationConfig) -> None:
    """Raise ConfigError unless requests that name at most a mode can be served."""
    if config.max_draft_tokens < 1 or config.draft_top_k < 1:
        raise ConfigError(
            f"speculation.max_draft_tokens is {config.max_draft_tokens} and speculation.draft_top_k is "
            f"{config.draft_top_k}; both must be at least 1"
        )
    try:
        resolve(SpeculationOptions(mode=Mode.ADAPTIVE), config)
        resolve(SpeculationOptions(mode=Mode.EXACT), config)
        Mode(config.mode)
    except (InvalidRequest, ValueError) as error:
        raise ConfigError(f"speculation: {error}") from error


def _mode(options: SpeculationOptions, config: SpeculationConfig, tiers: Sequence[str]) -> Mode:
    """The mode; off without a draft model, unless the request names a mode or source, or the deployment a source."""
    asked = options.mode or options.draft or config.draft
    if not tiers and not asked:
        return Mode.OFF
    return config.mode if options.mode is None else options.mode


def _draft(options: SpeculationOptions, config: SpeculationConfig, tiers: Sequence[str]) -> str:
    """The named source, else the first draft model, else the suffix look-up."""
    default = tiers[0] if tiers else draft_sources.SUFFIX
    return draft_sources.choose(options.draft or config.draft or default, tiers)


def _exact_acceptance(options: SpeculationOptions, config: SpeculationConfig, mode: Mode) -> str | None:
    """The exact test; None is token by token, which suits every request."""
    names = [test.name for test in EXACT_TESTS]
    name = options.acceptance
    if mode is Mode.OFF or (name is not None and name not in names):
        if name is None:
            return None
        raise InvalidRequest(
            f"acceptance {name!r} does not go with mode {mode.value!r}; mode 'exact' knows {', '.join(names)}, "
            f"mode 'adaptive' {', '.join(method.name for method in acceptance_methods())}",
            "speculation.acceptance",
        )
    chosen = exact_test(name or config.verification).name
    return None if chosen == "token" else chosen
