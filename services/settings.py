"""Reads the settings: defaults, then a YAML file, then the environment, then the command line.

The fields of ``services.config.ServeConfig`` are the options. An option's name is the path of its field:
``target.num_slots`` in the file (or nested), ``--target-num-slots`` on the command line,
``ADASD_TARGET_NUM_SLOTS`` in the environment. A few options also have a short name (``SHORT_NAMES``), and renamed
options keep their old name (``OLD_NAMES``). ``--drafts tiny=FOLDER`` adds a draft model; in the file it takes every
setting of a tier: ``drafts: {tiny: {model: FOLDER}}``. An unknown name is refused with the nearest known one.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

import yaml

from adasd.control import draft_sources
from adasd.errors import ConfigError, InvalidRequest
from adasd.methods.registry import acceptance_method, drafting_method
from services import api_keys, otel_environment
from services.config import ServeConfig, TierConfig
from services.naming import served_as

ENVIRONMENT_PREFIX = "ADASD_"
SHORT_NAMES = {
    "target": "target.model",
    "draft": "draft.model",
    "mode": "speculation.mode",
    "draft_source": "speculation.draft",
}
OLD_NAMES = {"speculation.row_len": "speculation.draft_top_k"}
"""Former names of options, still accepted in the file, the environment and on the command line."""
REPLACED = {
    "target.num_devices": "the cards of a target now share every layer: set target.tensor_parallel to their number",
    "draft.num_devices": "a draft runs on one card: leave it out",
}
"""Former options that are refused, with what to do instead."""
CLIENT_VARIABLES = ("ADASD_API_KEY", "ADASD_CACHE")
"""Variables that are no settings: the key of ``adasd chat``, the folder of fetched models."""
NONE_WORDS = ("none", "null", "")
ORIGIN = re.compile(r"https?://[^/\s]+")
HUB = "hf:"
"""Marks an entry of ``model_roots`` as a prefix of Hugging Face ids, not a folder."""
BOOL_WORDS = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}


@dataclass(frozen=True, slots=True)
class Option:
    """One option: a field of ServeConfig or of a dataclass inside it."""

    name: str  # dotted path, for example target.num_slots
    hint: Any  # its type
    default: Any  # MISSING if there is none
    sentence: str
    low: float | None
    high: float | None
    choices: tuple[str, ...]

    @property
    def flag(self) -> str:
        """The option on the command line."""
        short = {full: short for short, full in SHORT_NAMES.items()}.get(self.name, self.name)
        return flag_of(short)

    @property
    def optional(self) -> bool:
        """Whether ``none`` is a value (``draft.model: none`` means plain decoding)."""
        return NoneType in get_args(self.hint) or self.name == "draft.model"


def flag_of(name: str) -> str:
    """``--target-num-slots`` for ``target.num_slots``."""
    return "--" + name.replace(".", "-").replace("_", "-")


DRAFTS = "drafts"
FURTHER_DRAFTS = Option(
    DRAFTS,
    tuple[tuple[str, str], ...],
    (),
    "more draft models as NAME=MODEL,...; a request chooses one with speculation.draft",
    None,
    None,
    (),
)
TIER_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")


@dataclass(frozen=True, slots=True)
class Given:
    """A value as written, and where it was written."""

    raw: Any
    origin: str


@cache
def options() -> dict[str, Option]:
    """All options by name, in the order of the fields."""
    found = {option.name: option for option in _leaves(ServeConfig, "")}
    return {**found, DRAFTS: FURTHER_DRAFTS}


def load(
    arguments: Mapping[str, str],
    environment: Mapping[str, str],
    file: Path | None = None,
    demo: Path | None = None,
) -> ServeConfig:
    """Merge the sources; raises ConfigError with every problem, one sentence per line.

    ``arguments`` maps option names to texts. ``demo`` is the folder of the model pair served when no target is given.
    """
    given: dict[str, Given] = {}
    further: dict[str, dict[str, Given]] = {}
    problems: list[str] = []
    for source in (_from_file(file, problems), _from_environment(environment), _from_arguments(arguments)):
        for name, value in source:
            full = SHORT_NAMES.get(name) or OLD_NAMES.get(name, name)
            if full in options():
                given[full] = value
            elif (place := _of_further_draft(full)) is not None:
                further.setdefault(place[0], {})[place[1]] = value
            elif full in REPLACED:
                problems.append(f"{value.origin}: {full} is no longer a setting, as {REPLACED[full]}")
            else:
                problems.append(
                    f"{value.origin}: there is no setting {name!r}{nearest(name, [*options(), *SHORT_NAMES])}"
                )
    _fill_in_models(given, demo)
    values = {name: _value(option, given.get(name), problems) for name, option in options().items()}
    if values["draft.model"] is None:
        stray = [
            value for name, value in given.items() if name.startswith("draft.") and name != "draft.model"
        ]
        problems += [
            f"{value.origin}: there is no draft model to set this for; set draft, or remove this"
            for value in stray
        ]
    drafts = _further_drafts(further, values.pop(DRAFTS), problems)
    if problems:
        raise ConfigError("\n".join(problems))
    config = dataclasses.replace(_build(ServeConfig, "", values), drafts=drafts)
    config = _with_keys(config, environment)
    config = dataclasses.replace(config, traces=otel_environment.completed(config.traces, environment))
    if found := list(_conflicts(config)):
        raise ConfigError("\n".join(found))
    return config


def places_of(
    names: Collection[str], arguments: Mapping[str, str], environment: Mapping[str, str], file: Path | None
) -> list[str]:
    """Where these settings are given, in words; ConfigError for an unreadable file."""
    sources = (_from_file(file, []), _from_environment(environment), _from_arguments(arguments))
    return [
        value.origin
        for source in sources
        for name, value in source
        if (SHORT_NAMES.get(name) or OLD_NAMES.get(name, name)) in names
    ]


def _of_further_draft(name: str) -> tuple[str, str] | None:
    """``drafts.tiny.num_slots`` -> (tiny, draft.num_slots); None if the name is not of that form."""
    section, _, rest = name.partition(".")
    tier, _, field = rest.partition(".")
    setting = f"draft.{field or 'model'}"
    return (tier, setting) if section == DRAFTS and tier and setting in options() else None


def _further_drafts(
    further: Mapping[str, Mapping[str, Given]], models: tuple[tuple[str, str], ...], problems: list[str]
) -> tuple[tuple[str, TierConfig], ...]:
    """The tiers under ``drafts``; ``models`` come from the command line or the environment."""
    tiers = {name: dict(given) for name, given in further.items()}
    for name, model in models:
        tiers.setdefault(name, {})["draft.model"] = Given(model, f"--{DRAFTS}")
    made = []
    for name, given in sorted(tiers.items()):
        if not TIER_NAME.fullmatch(name) or name in draft_sources.RESERVED:
            taken = ", ".join(draft_sources.RESERVED)
            problems.append(
                f"{DRAFTS}: {name!r} is not a valid name; use lower-case letters, digits and hyphens, starting "
                f"with a letter, and none of {taken}"
            )
        elif given.get("draft.model") is None or given["draft.model"].raw in (None, *NONE_WORDS):
            problems.append(f"{DRAFTS}.{name}: the model is missing; set {DRAFTS}.{name}.model")
        else:
            fields = {n: option for n, option in options().items() if n.startswith("draft.")}
            values = {n: _value(option, given.get(n), problems) for n, option in fields.items()}
            made.append((name, _build(TierConfig, "draft.", values)))
    return tuple(made)


def is_section(name: str) -> bool:
    """Whether a mapping under this name holds options; otherwise it is the value of one option."""
    is_tier = name.startswith(f"{DRAFTS}.") and name.count(".") == 1
    return name == DRAFTS or is_tier or any(known.startswith(f"{name}.") for known in options())


def _with_keys(config: ServeConfig, environment: Mapping[str, str]) -> ServeConfig:
    """Add the API keys, which have no option of their own; only their hashes are kept."""
    limits = api_keys.KeyLimits(config.key_requests_per_minute, config.key_max_concurrent)
    file = Path(config.api_keys_file).expanduser() if config.api_keys_file else None
    keys = api_keys.read(file, environment.get(api_keys.VARIABLE), limits)
    return dataclasses.replace(config, api_keys=keys)


def known_names() -> list[str]:
    """Every name that ``load`` understands."""
    return [*options(), *SHORT_NAMES, *OLD_NAMES, *REPLACED]


def nearest(name: str, known: Iterable[str]) -> str:
    """``"; did you mean X?"``, or an empty text if no name is close."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {str(close[0])!r}?" if close else ""


# --------------------------------------------------------------------------- the fields are the options


def _leaves(cls: type, prefix: str) -> Iterator[Option]:
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        inner = _dataclass_of(hints[field.name])
        if inner is not None:
            yield from _leaves(inner, _inside(prefix, field.name))
        elif field.metadata:  # a field without metadata is not an option
            about = field.metadata
            yield Option(
                name=prefix + field.name,
                hint=hints[field.name],
                default=field.default,
                sentence=about["help"],
                low=about["low"],
                high=about["high"],
                choices=about["choices"],
            )


def _build(cls: type, prefix: str, values: Mapping[str, Any]) -> Any:
    hints = get_type_hints(cls)
    arguments: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        inner = _dataclass_of(hints[field.name])
        if inner is None:
            if field.metadata:
                arguments[field.name] = values[prefix + field.name]
        elif field.name == "draft" and values["draft.model"] is None:
            arguments[field.name] = None
        else:
            arguments[field.name] = _build(inner, _inside(prefix, field.name), values)
    return cls(**arguments)


def _inside(prefix: str, name: str) -> str:
    """An engine's fields are options of its tier: ``target.dtype``, not ``target.engine.dtype``."""
    return prefix if name == "engine" else f"{prefix}{name}."


def _dataclass_of(hint: Any) -> type | None:
    candidates = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    return next((c for c in candidates if isinstance(c, type) and dataclasses.is_dataclass(c)), None)


# --------------------------------------------------------------------------- the sources


def _from_file(file: Path | None, problems: list[str]) -> Iterator[tuple[str, Given]]:
    if file is None:
        return
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"cannot read the configuration file {file}: {' '.join(str(error).split())}"
        ) from error
    if content is None:
        return
    if not isinstance(content, dict):
        problems.append(f"{file}: expected names and values, found {type(content).__name__}")
        return
    yield from _flatten(content, "", file)


def _flatten(content: Mapping[Any, Any], prefix: str, file: Path) -> Iterator[tuple[str, Given]]:
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and is_section(name):
            yield from _flatten(value, f"{name}.", file)
        elif (name in ("target.model", "draft.model", *SHORT_NAMES) or name.startswith(f"{DRAFTS}.")) and (
            isinstance(value, str)
        ):
            yield name, Given(_beside(file, value), f"{file}: {name}")
        elif name == "api_keys_file" and isinstance(value, str) and (file.parent / value).is_file():
            yield name, Given(str((file.parent / value).resolve()), f"{file}: {name}")
        else:
            yield name, Given(value, f"{file}: {name}")


def _beside(file: Path, model: str) -> str:
    """A relative model folder is first looked up in the configuration file's folder."""
    folder = file.parent / model
    return str(folder.resolve()) if folder.is_dir() else model


def _from_environment(environment: Mapping[str, str]) -> Iterator[tuple[str, Given]]:
    by_variable = {ENVIRONMENT_PREFIX + name.replace(".", "_").upper(): name for name in known_names()}
    for variable, raw in sorted(environment.items()):
        if variable.startswith(ENVIRONMENT_PREFIX) and variable not in (api_keys.VARIABLE, *CLIENT_VARIABLES):
            name = by_variable.get(variable, variable.removeprefix(ENVIRONMENT_PREFIX).lower())
            yield name, Given(raw, variable)


def _from_arguments(arguments: Mapping[str, str]) -> Iterator[tuple[str, Given]]:
    for name, raw in arguments.items():
        yield name, Given(raw, options()[name].flag if name in options() else flag_of(name))


def _fill_in_models(given: dict[str, Given], demo: Path | None) -> None:
    """Without a target, serve the demo pair. With one, there is no default draft, and the target names the service."""
    if "target.model" not in given:
        if demo is not None:
            given["target.model"] = Given(str(demo / "target"), "the default")
            given.setdefault("draft.model", Given(str(demo / "draft"), "the default"))
        return
    model = given["target.model"].raw
    given.setdefault("draft.model", Given(None, "the default"))
    if isinstance(model, str) and model.strip():
        given.setdefault("model_name", Given(served_as(model.strip()), "the default"))


# --------------------------------------------------------------------------- values


def _value(option: Option, given: Given | None, problems: list[str]) -> Any:
    if given is None:
        if option.default is MISSING and not option.optional:
            problems.append(f"{option.name} is required: {option.sentence}")
        return None if option.default is MISSING else option.default
    try:
        return parse(option, given.raw)
    except ValueError as error:
        problems.append(f"{given.origin}: {given.raw!r} {error}")
        return option.default


def parse(option: Option, raw: Any) -> Any:
    """The value of an option from a text (command line, environment) or a YAML value.

    Raises ValueError with a message that the caller puts after the value, for example "is not a number".
    """
    if option.optional and (raw is None or (isinstance(raw, str) and raw.lower() in NONE_WORDS)):
        return None
    hint = (
        next((h for h in get_args(option.hint) if h is not NoneType), option.hint)
        if option.optional
        else option.hint
    )
    value = _several(raw, hint) if get_origin(hint) is tuple else _scalar(raw, hint)
    if option.choices and value not in option.choices:
        raise ValueError(f"is not one of {', '.join(option.choices)}{nearest(str(raw), option.choices)}")
    for number in value if isinstance(value, tuple) else [value]:
        _check_range(option, number[1] if isinstance(number, tuple) else number)
    if option.name.endswith(".model"):
        folder = Path(str(value)).expanduser()
        return str(folder.resolve()) if folder.is_dir() else value
    return value


def _scalar(raw: Any, hint: Any) -> Any:
    if hint is bool:
        return _bool(raw)
    if hint is int:
        return _int(raw)
    if hint is float:
        return _float(raw)
    if issubclass(hint, StrEnum):
        word = "off" if raw is False else str(raw)  # YAML reads an unquoted off as False
        if word not in list(hint):
            raise ValueError(f"is not one of {', '.join(hint)}{nearest(word, list(hint))}")
        return hint(word)
    if not isinstance(raw, str) or not raw.strip():
        raise ValueError("is not text")
    return raw


def _bool(raw: Any) -> bool:
    value = raw if isinstance(raw, bool) else BOOL_WORDS.get(str(raw).lower())
    if value is None:
        raise ValueError("is not true or false")
    return value


def _int(raw: Any) -> int:
    try:
        if isinstance(raw, bool | float):
            raise ValueError
        return int(raw)
    except (TypeError, ValueError):
        raise ValueError("is not a whole number") from None


def _float(raw: Any) -> float:
    try:
        if isinstance(raw, bool):
            raise ValueError
        value = float(raw)
    except (TypeError, ValueError):
        raise ValueError("is not a number") from None
    if not math.isfinite(value):
        raise ValueError("is not a finite number")
    return value


def _several(raw: Any, hint: Any) -> tuple[Any, ...]:
    """A list (``a,b`` or a YAML list) or a mapping."""
    element = get_args(hint)[0]
    if get_origin(element) is tuple:
        return _mapping(raw, hint)
    if isinstance(raw, str):
        raw = [part.strip() for part in raw.split(",") if part.strip()]
    if not isinstance(raw, list):
        raise ValueError("is not a list")
    return tuple(_scalar(value, element) for value in raw)


def _mapping(raw: Any, hint: Any) -> tuple[tuple[str, Any], ...]:
    """``a=1,b=2`` or a YAML mapping."""
    element = get_args(get_args(hint)[0])[1]
    if isinstance(raw, str):
        pairs = [part.partition("=") for part in raw.split(",") if part.strip()]
        if not all(sign and key.strip() for key, sign, _ in pairs):
            raise ValueError("is not of the form name=value,name=value")
        raw = {key.strip(): value.strip() for key, _, value in pairs}
    if not isinstance(raw, Mapping):
        raise ValueError("is not a mapping of names to values")
    return tuple(sorted((str(key), _scalar(value, element)) for key, value in raw.items()))


def _check_range(option: Option, value: Any) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return
    low, high = option.low, option.high
    if (low is not None and value < low) or (high is not None and value > high):
        wanted = f"at least {low:g}" if high is None else f"between {low:g} and {high:g}"
        raise ValueError(f"is out of range; it must be {wanted}")


def _conflicts(config: ServeConfig) -> Iterator[str]:
    """Settings that are valid alone but not together."""
    if config.target.min_replicas == 0:
        yield "target.min_replicas is 0; at least one target replica must run"
    if config.grpc_port == config.port:
        yield f"grpc_port and port are both {config.port}; HTTP and gRPC need different ports"
    tls = config.worker_tls
    given = [name for name in ("certificate", "key", "ca") if getattr(tls, name) is not None]
    if len(given) in (1, 2):
        yield f"worker_tls has only {' and '.join(given)}; set certificate, key and ca, or none of them"
    if (config.tls.certificate is None) != (config.tls.key is None):
        yield "tls has only a certificate or only a key; set both, or neither"
    for role, tier in config.tiers.items():
        if not may_be_served(tier.engine.model, config.model_roots):
            roots = ", ".join(config.model_roots)
            yield f"{role}.model is {tier.engine.model}, which is in none of model_roots ({roots})"
    for origin in config.cors_origins:
        if origin != "*" and not ORIGIN.fullmatch(origin):
            yield f"cors_origins names {origin!r:.80}; an origin is http(s)://host or http(s)://host:port, or *"
    for name, find in (("drafting", drafting_method), ("acceptance", acceptance_method)):
        chosen = getattr(config.speculation, name)
        try:
            chosen is None or find(chosen)
        except InvalidRequest as error:
            yield f"speculation.{name}: {error}"
    if config.target.engine.early_exit and config.draft_tiers:
        yield (
            f"target.early_exit is on and there is a draft model ({', '.join(config.draft_tiers)}); set draft to none, "
            "or switch early_exit off"
        )
    for role, tier in list(config.tiers.items())[1:]:
        if tier.engine.early_exit:
            yield f"{role}.early_exit is on; only the target can draft with its first layers"
        if tier.engine.tensor_parallel > 1:
            yield (
                f"{role}.tensor_parallel is {tier.engine.tensor_parallel}, but a draft runs on one rank; set it to 1, "
                "or take a smaller draft"
            )
    if (source := config.speculation.draft) is not None:
        try:
            draft_sources.choose(source, config.draft_sources)
        except InvalidRequest as error:
            yield f"speculation.draft: {error}"
    for role, tier in config.tiers.items():
        yield from (f"{role}.{sentence}" for sentence in _conflicts_of_tier(tier))


def may_be_served(model: str, roots: Iterable[str]) -> bool:
    """Whether the model is inside one of the roots, with ``..`` and links resolved; without roots always True."""
    roots = tuple(roots)
    if not roots:
        return True
    folder = Path(model).expanduser()
    if not (folder.is_absolute() or folder.exists() or model.startswith((".", "~"))):
        return any(model.startswith(root.removeprefix(HUB)) for root in roots if root.startswith(HUB))
    folders = (Path(root).expanduser().resolve() for root in roots if not root.startswith(HUB))
    return any(folder.resolve().is_relative_to(root) for root in folders)


def _conflicts_of_tier(tier: TierConfig) -> Iterator[str]:
    device = tier.engine.device
    if tier.min_replicas > tier.max_replicas:
        yield f"min_replicas is {tier.min_replicas}, but max_replicas is {tier.max_replicas}"
    if tier.num_gpus > 1 and tier.num_gpus != int(tier.num_gpus):
        yield f"num_gpus is {tier.num_gpus:g}; above 1, Ray reserves whole GPUs only"
    num_ranks = tier.engine.tensor_parallel
    if tier.num_gpus not in (0, num_ranks) and (num_ranks > 1 or tier.num_gpus > 1):
        yield (
            f"tensor_parallel is {num_ranks}, but num_gpus is {tier.num_gpus:g}; each rank has a GPU of its own, so "
            "the two must agree"
        )
    if device == "cpu" and tier.num_gpus > 0:
        yield f"num_gpus is {tier.num_gpus:g}, but device is cpu; set num_gpus to 0"
    if device.startswith("cuda") and tier.num_gpus == 0:
        yield f"device is {device}, but num_gpus is 0, so Ray hides all GPUs from the replica; set num_gpus"
