"""Reading model files. Every failure is a ConfigError that names the file and what to do."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from adasd.errors import ConfigError
from adasd.text.files import is_local, remedy


def load_config(model: str, trust_remote_code: bool = False) -> PreTrainedConfig:
    """Read the model's configuration and nothing else."""
    if (Path(model) / "adapter_config.json").is_file():
        raise ConfigError(
            f"{model} holds a LoRA adapter (adapter_config.json): name the model without it, and as its adapter a "
            "folder with the adapter alone (--target-adapter)"
        )
    if model.endswith(".gguf"):
        raise ConfigError(
            f"{model} is a GGUF file, which is not served; give the folder of the safetensors model"
        )
    with reading(model, "configuration", "config.json"):
        config: PreTrainedConfig = AutoConfig.from_pretrained(model, **where(model, trust_remote_code))
    return config


def load_tokenizer(model: str, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The model's tokenizer."""
    with reading(model, "tokenizer", "tokenizer.json"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            model, **where(model, trust_remote_code)
        )
    return tokenizer


def check_weight_files(model: str) -> None:
    """Raise ConfigError if a model folder lacks weights or has damaged ones. Hub ids are not checked here."""
    folder = Path(model)
    if not folder.is_dir():
        return
    files = sorted(set(folder.glob("*.safetensors")) - {folder / "adapter_model.safetensors"})
    if not files and any(folder.glob("*.gguf")):
        raise ConfigError(
            f"{folder} holds weights as GGUF, which is not served; take the model's *.safetensors files instead"
        )
    if not files:
        raise ConfigError(
            f"{folder} holds no *.safetensors file; the weights are missing or in another format: copy them, or "
            "convert them with transformers' save_pretrained"
        )
    _check_shards(folder / "model.safetensors.index.json")
    for file in files:
        expected, actual = _safetensors_size(file), file.stat().st_size
        if expected is None:
            raise ConfigError(f"{file} is damaged: {_instead(file)}; copy it again")
        if expected != actual:
            raise ConfigError(
                f"{file} is damaged: it has {actual} bytes, its header says {expected}; copy it again"
            )


def _check_shards(index: Path) -> None:
    """Raise ConfigError unless every file that the index names exists."""
    if not index.is_file():
        return
    try:
        names = set(json.loads(index.read_bytes())["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{index} is damaged: it is no index of weights; copy it again") from error
    absent = sorted(name for name in names if not (index.parent / name).is_file())
    if absent:
        raise ConfigError(
            f"{index.parent / absent[0]} is missing, and {len(absent)} of the {len(names)} files of weights in all; "
            "copy them from where the model came from"
        )


def _instead(file: Path) -> str:
    """Describe a file without a readable header."""
    with file.open("rb") as stream:
        if stream.read(7) == b"version":
            return "it is a pointer of Git LFS (git lfs pull fetches the file)"
    return f"its {file.stat().st_size} bytes do not begin as safetensors do"


def _safetensors_size(file: Path) -> int | None:
    """File size in bytes by its header; None if there is no readable header."""
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
    """Arguments for every ``from_pretrained``: a folder is never looked up on the hub."""
    return {"local_files_only": is_local(model), "trust_remote_code": trust_remote_code}


@contextlib.contextmanager
def reading(model: str, what: str, file: str | None = None) -> Iterator[None]:
    """Turn every error while reading into a ConfigError that names the model, the part (``what``) and the ``file``."""
    path = Path(model)
    if not path.is_dir() and (path.is_absolute() or model.count("/") > 1 or model.startswith((".", "~"))):
        raise ConfigError(
            f"there is no model folder {model}; give a folder or a Hugging Face id (owner/name)"
        )
    try:
        yield
    except Exception as error:  # the libraries raise many types
        reason = str(error).strip().split("\n")[0].rstrip(":.") or type(error).__name__
        todo = remedy(model, file) if file else ""
        raise ConfigError(f"the {what} of {model} cannot be read: {reason}{todo}") from error
