"""Names of models in responses: a Hugging Face id unchanged, or the name of a folder, never its path."""

from __future__ import annotations

from pathlib import Path

ROLES = frozenset({"target", "draft", "model", "checkpoint"})
"""Folder names that give a model's role, not its identity."""


def shown(model: str) -> str:
    """``demo-target`` for ``/models/demo/target``, ``qwen`` for ``/models/qwen``, ``Qwen/Qwen2.5-7B`` unchanged."""
    folder = _folder(model)
    if folder is None:
        return model
    return f"{folder.parent.name}-{folder.name}" if _says_its_role(folder) else folder.name


def served_as(model: str) -> str:
    """The default of ``model_name``: ``demo``, ``qwen`` and ``Qwen2.5-7B`` for the same models."""
    folder = _folder(model)
    if folder is None:
        return model.rstrip("/").rsplit("/", 1)[-1]
    return folder.parent.name if _says_its_role(folder) else folder.name


def _folder(model: str) -> Path | None:
    folder = Path(model).expanduser()
    return folder.absolute() if folder.is_absolute() or folder.is_dir() else None


def _says_its_role(folder: Path) -> bool:
    return folder.name in ROLES and bool(folder.parent.name)
