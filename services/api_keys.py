"""Reads API keys from a file and the environment; only their hashes are kept."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from adasd.errors import ConfigError
from services.config import ApiKey

VARIABLE = "ADASD_API_KEYS"
"""``name=key,other=key``, or the content of a key file; a key without a name is called key-1, key-2, ..."""

SHA256 = re.compile(r"sha256:[0-9a-fA-F]{64}")
NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
LIMITS = ("requests_per_minute", "max_concurrent")


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """Default limits of a key; None: no limit."""

    requests_per_minute: int | None = None
    max_concurrent: int | None = None


def read(file: Path | None, variable: str | None, limits: KeyLimits) -> tuple[ApiKey, ...]:
    """The keys of both sources. Raises ConfigError for an invalid key; no message repeats a key.

    An empty source is an error, so that a mistake does not open the service to every caller.
    """
    entries: list[tuple[str, Any, str]] = []
    for content, origin in _sources(file, variable):
        if not content:
            raise ConfigError(f"{origin} holds no API keys; write name: key, or leave it out")
        entries += [(str(name), value, origin) for name, value in content]
    keys = tuple(_key(name, value, origin, limits) for name, value, origin in entries)
    for what, values in (("name", [k.name for k in keys]), ("key", [k.sha256 for k in keys])):
        for key, value in zip(keys, values, strict=True):
            if values.count(value) > 1:
                raise ConfigError(f"the API key {key.name!r}: its {what} is given twice; remove one")
    return keys


def hashed(key: str) -> str:
    """The SHA-256 of a key, in hexadecimal."""
    return hashlib.sha256(key.encode()).hexdigest()


def _sources(file: Path | None, variable: str | None) -> Iterator[tuple[list[tuple[Any, Any]], str]]:
    if file is not None:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read api_keys_file {file}: {type(error).__name__}") from None
        yield _mapping(text, f"api_keys_file {file}"), f"api_keys_file {file}"
    if variable is not None:
        is_file_text = variable.lstrip().startswith("{") or "\n" in variable.strip()
        yield _mapping(variable, VARIABLE) if is_file_text else list(_pairs(variable)), VARIABLE


def _mapping(text: str, origin: str) -> list[tuple[Any, Any]]:
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError:  # its message would quote the keys
        raise ConfigError(f"{origin} is neither YAML nor JSON") from None
    if content is not None and not isinstance(content, dict):
        raise ConfigError(f"{origin} must hold names and keys, it holds a {type(content).__name__}")
    return list((content or {}).items())


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    for number, part in enumerate((p.strip() for p in text.split(",") if p.strip()), 1):
        name, sign, key = part.partition("=")
        if sign and not key.strip("= "):  # a name without a key, or a key that ends in base64's padding
            raise ConfigError(f"{VARIABLE}: entry {number} has nothing after '='; write name=key")
        yield (name.strip(), key.strip()) if sign else (f"key-{number}", part)


def _key(name: str, value: Any, origin: str, limits: KeyLimits) -> ApiKey:
    where = f"{origin}: the key {name!r:.80}"
    if not NAME.fullmatch(name):
        raise ConfigError(f"{where}: a name has up to 64 letters, digits and . _ @ -")
    if not isinstance(value, Mapping):
        value = {"key": value}
    unknown = set(map(str, value)) - {"key", "sha256", *LIMITS}
    if unknown:
        raise ConfigError(f"{where}: unknown {sorted(unknown)}; known are key, sha256, {', '.join(LIMITS)}")
    return ApiKey(name, _hash(value, where), *(_limit(value, limit, where, limits) for limit in LIMITS))


def _hash(value: Mapping[Any, Any], where: str) -> str:
    given = [(kind, value[kind]) for kind in ("key", "sha256") if value.get(kind) is not None]
    if len(given) != 1:
        raise ConfigError(f"{where}: give either key or sha256")
    ((kind, text),) = given
    if not isinstance(text, str) or not text.strip():
        raise ConfigError(f"{where}: its {kind} is not text; put it in quotes")
    text = text.strip()
    digest = f"sha256:{text}" if kind == "sha256" and not text.startswith("sha256:") else text
    if SHA256.fullmatch(digest):
        return digest.removeprefix("sha256:").lower()
    if kind == "sha256" or text.startswith("sha256:"):
        raise ConfigError(f"{where}: a sha256 has 64 hexadecimal digits")
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ConfigError(f"{where}: HTTP headers carry printable ASCII without blanks only")
    return hashed(text)


def _limit(value: Mapping[Any, Any], name: str, where: str, limits: KeyLimits) -> int | None:
    default: int | None = getattr(limits, name)
    limit = value.get(name, default)
    if limit is not None and (type(limit) is not int or limit < 1):
        raise ConfigError(f"{where}: {name} is {limit!r:.40}; it must be a whole number of at least 1")
    return limit
