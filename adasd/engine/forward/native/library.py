"""Builds ``llama.c`` for this processor, once, and loads it.

The library lies in the user's cache folder. Its name is a hash of source, compiler and processor, so that different
machines can share a home directory. It needs no Python and no torch, so building takes a second or two.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

SOURCE, HEADER = Path(__file__).with_name("llama.c"), Path(__file__).with_name("team.h")
COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-O3", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd", "-pthread", "-shared", "-fPIC")
OWN_PROCESSOR = (("-march=native",), ("-mcpu=native",), ())
"""Flags for this processor, for different compilers; the first that works is used."""
TIMEOUT_S = 120.0


class Unavailable(Exception):
    """The library cannot be built or loaded here; the text says why. Torch is used instead."""


@cache
def load() -> ctypes.CDLL:
    """The library, built if necessary; raises Unavailable."""
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise Unavailable(f"there is no C compiler ({', '.join(COMPILERS)})")
    try:
        with _folder() as folder:
            file = folder / f"llama-{_fingerprint(compiler)}.so"
            if not file.exists():
                _build(compiler, file)
            return _declared(ctypes.CDLL(str(file)))
    except OSError as error:
        raise Unavailable(f"the kernels cannot be built or loaded: {error}") from error


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    """Declare the types of its functions (llama.c)."""
    library.adasd_panel.restype = ctypes.c_int64
    library.adasd_scratch.restype = ctypes.c_int64
    library.adasd_scratch.argtypes = [ctypes.c_void_p, *[ctypes.c_int64] * 3]
    library.adasd_forward.restype = None
    library.adasd_forward.argtypes = [ctypes.c_void_p] * 6
    library.adasd_draft.restype = ctypes.c_int64
    library.adasd_draft.argtypes = [*[ctypes.c_void_p] * 5, *[ctypes.c_int64] * 3, *[ctypes.c_void_p] * 4]
    library.adasd_team.restype = ctypes.c_void_p
    library.adasd_team.argtypes = [ctypes.c_int64]
    library.adasd_team_end.restype = None
    library.adasd_team_end.argtypes = [ctypes.c_void_p]
    return library


def _build(compiler: str, file: Path) -> None:
    """Compile to a temporary file first: other processes may be building the same library."""
    said = ""
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        fresh = Path(folder) / file.name
        for own_processor in OWN_PROCESSOR:
            command = [compiler, *FLAGS, *own_processor, "-o", str(fresh), str(SOURCE), "-lm"]
            try:
                done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
            except subprocess.TimeoutExpired as error:
                raise Unavailable(f"{compiler} did not end within {TIMEOUT_S:g} s") from error
            if done.returncode == 0:
                os.replace(fresh, file)
                return
            said = done.stderr.strip()
    raise Unavailable(f"{compiler} failed: {said[-300:]}")


@contextmanager
def _folder() -> Iterator[Path]:
    """The library's folder: the user's cache, or a temporary folder if that is not writable."""
    try:
        folder = Path.home() / ".cache" / "adasd"
        folder.mkdir(parents=True, exist_ok=True)
        kept = os.access(folder, os.W_OK)
    except (OSError, RuntimeError):  # RuntimeError: no home directory
        kept = False
    if kept:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="adasd-") as passing:  # a loaded library no longer needs its file
        yield Path(passing)


def _fingerprint(compiler: str) -> str:
    """Hash of everything that the built file depends on."""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    sources = [file.read_text(encoding="utf-8") for file in (SOURCE, HEADER)]
    parts = [*sources, repr((FLAGS, OWN_PROCESSOR)), version, _processor()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _processor() -> str:
    """The processor's model and features, as the system reports them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    told = sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))})
    return "\n".join([platform.machine(), platform.processor(), *told])
