"""Runs the Dockerfile's steps without a container runtime: ``python k8s/image_steps.py [cpu|cuda] [--port N]``.

Copies what ``.dockerignore`` lets through, runs the RUN steps of the packages' stages with a bare virtual
environment first in PATH, starts CMD and waits until HEALTHCHECK passes. Then it writes a bill of materials
(build/sbom-cpu.json). Stages named in SYSTEM need root and a distribution; their steps are only listed, and this
machine's C compiler builds the kernels. Build arguments and pip's settings may be given in the environment
(TORCH_INDEX, PIP_INDEX_URL, ...).
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SYSTEM = ("compiler", "system-cpu", "system-cuda")
LAST = "service"
TORCHES = ("cpu", "cuda")
HEALTHY_WITHIN_S = 300.0
ADVISORIES = ("advisories.json", "advisories")
"""A file or folder of advisories in OSV's format, in the source tree, if the operator puts one there."""
FOR_SMALL_IMAGES = ("PIP_NO_CACHE_DIR",)
"""Variables that only change the size of a layer; without them, pip uses its cache here."""


class StepFailed(Exception):
    """A step of the image failed."""


@dataclass(frozen=True)
class ImageStep:
    """One instruction."""

    word: str  # RUN, COPY, ...
    text: str


@dataclass
class ImageStage:
    """Instructions between two FROMs."""

    name: str
    parent: str
    steps: list[ImageStep] = field(default_factory=list)


def read(dockerfile: str, arguments: Mapping[str, str]) -> dict[str, ImageStage]:
    """Stages by name. ``arguments`` replace the defaults that stand before the first FROM."""
    stages: dict[str, ImageStage] = {}
    values = dict(arguments)
    current: ImageStage | None = None
    lines = (line for line in dockerfile.replace("\\\n", " ").splitlines() if line.strip())
    for line in (line for line in lines if not line.lstrip().startswith("#")):
        word, _, text = line.strip().partition(" ")
        if word == "FROM":
            parent, _, name = re.split(r"\s+", re.sub(r"\$\{(\w+)\}", lambda found: values[found[1]], text))
            current = stages[name] = ImageStage(name, parent)
        elif current is None:
            argument, _, default = text.partition("=")
            values.setdefault(argument, default)
        else:
            current.steps.append(ImageStep(word, text.strip()))
    return stages


def lineage(stages: Mapping[str, ImageStage], name: str) -> list[ImageStage]:
    """The stage and its base stages, the first one first."""
    if name not in stages:
        raise StepFailed(f"the Dockerfile has no stage {name!r}; it has {', '.join(stages)}")
    own = stages[name]
    return [*(lineage(stages, own.parent) if own.parent in stages else []), own]


def context_files(root: Path, ignore: str) -> Iterator[Path]:
    """Files that a build may copy, relative to ``root``. Supports our .dockerignore syntax: *, !path, **/name."""
    patterns = [p for line in ignore.splitlines() if (p := line.strip()) and not p.startswith("#")]
    for folder, folders, names in os.walk(root):
        folders[:] = [f for f in folders if not f.startswith(".")]
        for name in names:
            path = (Path(folder) / name).relative_to(root)
            if not is_ignored(path, patterns):
                yield path


def is_ignored(path: Path, patterns: list[str]) -> bool:
    """Decided by the last pattern that matches the path or a folder above it."""
    ignored = False
    above = [str(p) for p in (path, *path.parents) if str(p) != "."]
    for pattern in patterns:
        wanted = pattern.removeprefix("!")
        if wanted.startswith("**/"):
            hit = any(fnmatch.fnmatch(part, wanted[3:]) for part in path.parts)
        else:
            hit = any(fnmatch.fnmatch(p, wanted) for p in above)
        if hit:
            ignored = not pattern.startswith("!")
    return ignored


@dataclass
class Build:
    """A folder as the file system of a stage and those below it, and a virtual environment as its Python."""

    context: Path
    image: Path
    environment: dict[str, str]
    stages: Mapping[str, ImageStage]  # all of the file
    folder: str = "/"
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)

    def run(self, name: str) -> None:
        """Build a stage with those below it."""
        for stage in lineage(self.stages, name):
            print(f"stage {stage.name}", flush=True)
            self._run(stage)

    def _run(self, stage: ImageStage) -> None:
        for step in stage.steps:
            if stage.name in SYSTEM:
                print(f"  (not run here) {step.word} {step.text}", flush=True)
                continue
            print(f"  {step.word} {step.text}", flush=True)
            self._take(step)

    def _take(self, step: ImageStep) -> None:
        match step.word:
            case "RUN":
                done = subprocess.run(
                    ["bash", "-ec", step.text], cwd=self.here, env=self.environment, check=False
                )
                if done.returncode:
                    raise StepFailed(f"RUN {step.text} ended with status {done.returncode}")
            case "COPY":
                self._copy(step.text.split())
            case "WORKDIR":
                self.folder = step.text
                self.here.mkdir(parents=True, exist_ok=True)
            case "ENV" | "ARG":
                for pair in step.text.split():
                    name, _, value = pair.partition("=")
                    if name not in FOR_SMALL_IMAGES and (step.word == "ENV" or name not in self.environment):
                        self.environment[name] = value
            case "CMD":
                self.command = json.loads(step.text)
            case "HEALTHCHECK":
                self.health = json.loads(step.text.partition("CMD ")[2])
            case "USER":
                if step.text.split(":")[0] in ("", "0", "root"):
                    raise StepFailed("the image runs as root")
            case "EXPOSE":
                pass
            case _:
                raise StepFailed(f"{step.word} is not known here")

    @property
    def here(self) -> Path:
        return self.image / self.folder.lstrip("/")

    def _copy(self, words: list[str]) -> None:
        *sources, to = words
        context = self.context
        if sources[0].startswith("--from="):
            context = self._other(sources.pop(0).removeprefix("--from="))
        for source in sources:
            found = context / source.lstrip("/")
            if not found.exists():
                raise StepFailed(f"COPY {source}: not in the build context; is it in .dockerignore?")
            target = self.here / to / source if to.endswith("/") else self.here / to
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(found, target) if found.is_dir() else shutil.copy(found, target)

    def _other(self, name: str) -> Path:
        """The file system of another stage, which is built for it."""
        other = Build(
            self.context, self.image.with_name(f"image-{name}"), dict(self.environment), self.stages
        )
        other.run(name)
        return other.image


def wait_until_healthy(build: Build, port: int) -> None:
    """Start CMD on ``port`` and run HEALTHCHECK until it passes; then stop it with SIGTERM."""
    command = [*build.command, "--port", str(port), "--grpc-port", "0"]
    health = [part.replace(":8000/", f":{port}/") for part in build.health]
    print(f"  CMD {' '.join(command)}", flush=True)
    server = subprocess.Popen(command, cwd=build.here, env=build.environment, start_new_session=True)
    try:
        until_s = time.monotonic() + HEALTHY_WITHIN_S
        while subprocess.run(health, env=build.environment, capture_output=True, check=False).returncode:
            if server.poll() is not None:
                raise StepFailed(f"CMD ended with status {server.returncode}")
            if time.monotonic() > until_s:
                raise StepFailed(f"HEALTHCHECK did not pass within {HEALTHY_WITHIN_S:g} s")
            time.sleep(2)
        print("  HEALTHCHECK passed", flush=True)
    finally:
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(60)
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
            raise StepFailed("CMD did not stop within 60 s of SIGTERM")
    if server.returncode:
        raise StepFailed(f"CMD ended with status {server.returncode} after SIGTERM")


def bill(python: Path, file: Path, tools: Path) -> None:
    """Write what is installed as a valid CycloneDX file, and hold it against local advisories if there are any.

    The program that writes it gets an environment of its own, ``tools``: one of its packages makes every process with
    Ray start a second later.
    """
    venv.create(tools, with_pip=True)
    program = tools / "bin" / "python"
    lock = ["--require-hashes", "--requirement", str(ROOT / "locks" / "bill.txt")]
    install = [program, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *lock]
    if subprocess.run(install, check=False).returncode:
        raise StepFailed("the program that writes the bill of materials cannot be installed")
    file.parent.mkdir(exist_ok=True)
    words = ["environment", "--validate", "--output-reproducible", "--of", "JSON", "--output-file", str(file)]
    command = [program, "-m", "cyclonedx_py", *words, str(python)]
    if subprocess.run(command, check=False).returncode:
        raise StepFailed("the bill of materials cannot be written")
    print(f"  bill of materials: {file.relative_to(ROOT)}", flush=True)
    for known in (ROOT / name for name in ADVISORIES):
        if known.exists():
            audit = [sys.executable, str(ROOT / "k8s" / "audit.py"), str(file), str(known)]
            if subprocess.run(audit, check=False).returncode:
                raise StepFailed(f"{known.name} names packages of the image")
            print(f"  nothing in {known.name} is about this image", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("torch", nargs="?", default=TORCHES[0], choices=TORCHES)
    parser.add_argument("--port", type=int, default=18765, help="where CMD listens during the check")
    arguments = parser.parse_args()
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="image-") as folder:
        place = Path(folder)
        for path in context_files(ROOT, (ROOT / ".dockerignore").read_text()):
            (place / "context" / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, place / "context" / path)
        venv.create(place / "venv", with_pip=True)
        kept = ("HOME", "LANG", "TORCH_INDEX", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
        inherited = {
            n: v for n, v in os.environ.items() if n in kept or n.startswith(("PIP_", "HTTP", "http"))
        }
        path = f"{place / 'venv' / 'bin'}:/usr/local/bin:/usr/bin:/bin"
        stages = read((ROOT / "Dockerfile").read_text(), {"TORCH": arguments.torch})
        build = Build(place / "context", place / "image", {**inherited, "PATH": path}, stages)
        try:
            build.run(LAST)
            wait_until_healthy(build, arguments.port)
            python = place / "venv" / "bin" / "python"
            bill(python, ROOT / "build" / f"sbom-{arguments.torch}.json", place / "tools")
        except StepFailed as error:
            print(f"image-check: {error}", file=sys.stderr)
            return 1
    print(f"The steps for {arguments.torch} work ({time.monotonic() - began_s:.0f} s).")
    return 0


if __name__ == "__main__":
    sys.exit(main())
