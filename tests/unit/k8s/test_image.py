"""The Dockerfile, checked without running it; ``make image-check`` runs its steps."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from tests.unit.k8s.conftest import K8S

ROOT = K8S.parent
spec = importlib.util.spec_from_file_location("image_steps", K8S / "image_steps.py")
image_steps = sys.modules["image_steps"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(image_steps)

DOCKERFILE = (ROOT / "Dockerfile").read_text()
IGNORE = [p for p in (ROOT / ".dockerignore").read_text().split("\n") if p and not p.startswith("#")]


def steps(torch):
    stages = image_steps.lineage(image_steps.read(DOCKERFILE, {"TORCH": torch}), image_steps.LAST)
    return [(step.word, step.text) for stage in stages for step in stage.steps]


@pytest.fixture(params=image_steps.TORCHES)
def stage(request):
    return request.param


def test_the_service_is_built_for_cpus_unless_told_otherwise_and_is_the_last_stage():
    stages = image_steps.read(DOCKERFILE, {})
    assert list(stages)[-1] == image_steps.LAST
    assert stages[image_steps.LAST].parent == "torch-cpu"


def test_no_step_stands_twice():
    written = [
        line for line in DOCKERFILE.splitlines() if line.split(" ")[0] in ("COPY", "CMD", "USER", "EXPOSE")
    ]
    assert len(set(written)) == len(written)


def test_the_exporter_of_traces_and_what_ranks_need_are_in_the_image(stage):
    assert any(text.endswith("--editable .[traces,cuda]") for word, text in steps(stage) if word == "RUN")


def test_the_last_user_has_no_rights(stage):
    users = [text for word, text in steps(stage) if word == "USER"]
    assert users == ["1000:1000"]


def test_it_says_when_it_is_healthy_and_what_it_runs(stage):
    words = [word for word, _ in steps(stage)]
    assert words.count("HEALTHCHECK") == words.count("CMD") == 1


def test_every_package_is_pinned(stage):
    installs = [text for word, text in steps(stage) if word == "RUN" and "pip install" in text]
    assert len(installs) == 2
    assert all("--constraint constraints.txt" in text for text in installs)


def test_the_two_stages_differ_in_their_torch_alone():
    cpu, cuda = steps("cpu"), steps("cuda")
    assert [text for word, text in cuda if (word, text) not in cpu] == [
        "pip install --constraint constraints.txt torch accelerate"
    ]
    assert len([1 for step in cpu if step not in cuda]) == 2  # the index option, and torch from that index


def test_what_is_copied_is_in_the_context_and_nothing_else_is(stage):
    sources = [name for word, text in steps(stage) if word == "COPY" for name in text.split()[:-1]]
    context = {str(path) for path in image_steps.context_files(ROOT, (ROOT / ".dockerignore").read_text())}
    for source in sources:
        assert any(path == source or path.startswith(f"{source}/") for path in context), source
    covered = {path for path in context if any(path == s or path.startswith(f"{s}/") for s in sources)}
    assert context == covered


@pytest.mark.parametrize(
    ("path", "ignored"),
    [
        ("cluster/app.py", False),
        ("cluster/__pycache__/app.cpython-311.pyc", True),
        ("k8s/base/service.yaml", False),
        ("k8s/overlays/laptop/topology.yaml", True),
        ("tests/pairs.py", True),
        (".git/config", True),
    ],
)
def test_dockerignore_lets_through_what_the_image_is_made_of(path, ignored):
    assert image_steps.is_ignored(image_steps.Path(path), IGNORE) is ignored


def test_a_stage_that_is_not_there_is_named():
    with pytest.raises(image_steps.StepFailed, match="no stage 'gpu'; it has system, packages, torch-cpu"):
        image_steps.lineage(image_steps.read(DOCKERFILE, {}), "gpu")
