"""Builds ``llama.c`` and its headers for this processor, once, and loads it.

The library lies in the user's cache folder. Its name is a hash of source, compiler and processor, so that different
machines can share a home directory. It needs no Python and no torch, so building takes a second or two.

An image without a compiler has the library for every kind of processor instead, in the folder ``built`` beside this
file: ``python library.py`` makes it, with nothing but Python and a compiler.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).with_name("llama.c")
COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-O3", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd", "-pthread", "-shared", "-fPIC")
OWN_PROCESSOR = (("-march=native",), ("-mcpu=native",), ())
"""Flags for this processor, for different compilers; the first that works is used."""
TIMEOUT_S = 120.0
BUILT = Path(__file__).with_name("built")


@dataclass(frozen=True, slots=True)
class Level:
    """A kind of processor that the library can be built for in advance."""

    name: str  # as the compiler's option -march has it
    machine: str
    features: frozenset[str] = frozenset()  # that a processor must have, as /proc/cpuinfo names them
    options: tuple[str, ...] = ()  # of the compiler, beside -march


V3 = frozenset({"avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"})
V4 = V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
LEVELS = (
    Level("x86-64-v4", "x86_64", V4 | {"avx512_vnni"}, ("-mavx512vnni",)),
    Level("x86-64-v4", "x86_64", V4),
    Level("x86-64-v3", "x86_64", V3 | {"avx_vnni"}, ("-mavxvnni",)),
    Level("x86-64-v3", "x86_64", V3),
    Level("x86-64", "x86_64"),
    Level("armv8.2-a+dotprod", "aarch64", frozenset({"asimddp", "asimdrdm", "atomics", "crc32"})),
    Level("armv8-a", "aarch64"),
)
"""The best first. The source itself tells apart just these."""


class Unavailable(Exception):
    """The library cannot be built or loaded here; the text says why. Torch is used instead."""


@cache
def load() -> ctypes.CDLL:
    """The library, built if necessary; raises Unavailable."""
    try:
        if (file := built_for(_features())) is not None:
            return _declared(ctypes.CDLL(str(file)))
        compiler = _compiler()
        with _folder() as folder:
            file = folder / f"llama-{_fingerprint(compiler)}.so"
            if not file.exists():
                _build(compiler, file, OWN_PROCESSOR)
            return _declared(ctypes.CDLL(str(file)))
    except OSError as error:
        raise Unavailable(f"the kernels cannot be built or loaded: {error}") from error


def built_for(features: Set[str]) -> Path | None:
    """The library that was built in advance from today's source for the best level with these features, if any."""
    fitting = (
        level for level in LEVELS if level.machine == platform.machine() and level.features <= features
    )
    return next(filter(Path.exists, map(_built, fitting)), None)


def build_in_advance() -> list[Path]:
    """Build the library for every level of this kind of machine; raises Unavailable."""
    BUILT.mkdir(exist_ok=True)
    files = {_built(level): level for level in LEVELS if level.machine == platform.machine()}
    for file, level in files.items():
        _build(_compiler(), file, ((f"-march={level.name}", *level.options),))
    return list(files)


def _built(level: Level) -> Path:
    return BUILT / f"llama-{_hash(_sources())}-{''.join((level.name, *level.options))}.so"


def _compiler() -> str:
    found = next(filter(None, map(shutil.which, COMPILERS)), None)
    if found is None:
        raise Unavailable(f"there is no C compiler ({', '.join(COMPILERS)})")
    return found


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


def _build(compiler: str, file: Path, processors: Sequence[Sequence[str]]) -> None:
    """Compile to a temporary file first: other processes may be building the same library.

    ``processors``: options that say for which one; the first that work are used.
    """
    said = ""
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        fresh = Path(folder) / file.name
        for processor in processors:
            command = [compiler, *FLAGS, *processor, "-o", str(fresh), str(SOURCE), "-lm"]
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
    return _hash([*_sources(), repr((FLAGS, OWN_PROCESSOR)), version, _processor()])


def _sources() -> list[str]:
    files = [SOURCE, *sorted(SOURCE.parent.glob("*.h"))]
    return [file.read_text(encoding="utf-8") for file in files]


def _hash(parts: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _processor() -> str:
    """The processor's model and features, as the system reports them."""
    return "\n".join([platform.machine(), platform.processor(), *_told("flags", "Features", "model name")])


def _features() -> Set[str]:
    return {feature for line in _told("flags", "Features") for feature in line.partition(":")[2].split()}


def _told(*names: str) -> list[str]:
    """The different lines of /proc/cpuinfo that begin with one of these names; none elsewhere than on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return sorted({line for line in lines if line.startswith(names)})


if __name__ == "__main__":
    for path in build_in_advance():
        print(path)
