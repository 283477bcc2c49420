"""Reading model files, with every failure a ConfigError that names the file and what to do."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from adasd.errors import ConfigError


def load_config(model: str, trust_remote_code: bool = False) -> PreTrainedConfig:
    """The model's configuration; nothing else is read."""
    with reading(model, "configuration"):
        config: PreTrainedConfig = AutoConfig.from_pretrained(model, **where(model, trust_remote_code))
    return config


def load_tokenizer(model: str, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The model's tokenizer."""
    with reading(model, "tokenizer"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            model, **where(model, trust_remote_code)
        )
    return tokenizer


def check_weight_files(model: str) -> None:
    """Raise ConfigError if a safetensors file of a model folder is cut off; ids are checked by the hub."""
    folder = Path(model)
    for file in sorted(folder.glob("*.safetensors")) if folder.is_dir() else []:
        expected, actual = _safetensors_size(file), file.stat().st_size
        if expected != actual:
            raise ConfigError(
                f"{file} is damaged: it has {actual} bytes, its header says {expected}; copy it again"
            )


def _safetensors_size(file: Path) -> int | None:
    """Bytes that the header promises; None if there is no readable header."""
    with file.open("rb") as stream:
        header_len = int.from_bytes(stream.read(8), "little")
        if header_len > file.stat().st_size:
            return None
        try:
            header: dict[str, Any] = json.loads(stream.read(header_len))
            ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
    return 8 + header_len + max(ends, default=0)


def where(model: str, trust_remote_code: bool) -> dict[str, Any]:
    """Arguments of every ``from_pretrained``: a folder is never looked up on the hub."""
    return {"local_files_only": Path(model).is_dir(), "trust_remote_code": trust_remote_code}


@contextlib.contextmanager
def reading(model: str, what: str) -> Iterator[None]:
    """Whatever goes wrong while reading is a ConfigError that says which part of which model."""
    path = Path(model)
    if not path.is_dir() and (path.is_absolute() or model.count("/") > 1 or model.startswith((".", "~"))):
        raise ConfigError(
            f"there is no model folder {model}; give a folder or a Hugging Face id (owner/name)"
        )
    try:
        yield
    except Exception as error:  # the libraries below raise a dozen kinds
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ConfigError(f"the {what} of {model} cannot be read: {reason}") from error
