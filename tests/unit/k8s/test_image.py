"""The Dockerfile, checked without running it; ``make image-check`` runs its steps."""

from __future__ import annotations

import importlib.util
import json
import sys

import pytest

from adasd.engine.forward.native import library
from tests.unit.k8s.conftest import K8S

ROOT = K8S.parent


def module(name):
    spec = importlib.util.spec_from_file_location(name, K8S / f"{name}.py")
    found = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


image_steps, audit, pin_image = map(module, ("image_steps", "audit", "pin_image"))
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
    lock = "\n" + (ROOT / "locks" / "service.txt").read_text()
    assert all(f"\n{name}==" in lock for name in ("opentelemetry-exporter-otlp-proto-http", "accelerate"))
    assert ("RUN", "pip install --require-hashes --requirement locks/service.txt") in steps(stage)


def test_the_last_user_has_no_rights(stage):
    users = [text for word, text in steps(stage) if word == "USER"]
    assert users == ["1000:1000"]


def test_it_says_when_it_is_healthy_and_what_it_runs(stage):
    words = [word for word, _ in steps(stage)]
    assert words.count("HEALTHCHECK") == words.count("CMD") == 1


def test_every_file_that_is_installed_has_a_hash_but_torch_for_cpus(stage):
    installs = [text for word, text in steps(stage) if word == "RUN" and "pip install" in text]
    ours = "pip install --no-deps --no-build-isolation --editable ."
    unchecked = [text for text in installs if "--require-hashes" not in text and text != ours]
    assert len(installs) == 3
    assert unchecked == (
        []
        if stage == "cuda"
        else ["pip install --constraint constraints.txt --index-url ${TORCH_INDEX} torch"]
    )


def test_the_two_stages_differ_in_their_torch_and_in_the_compiler_that_triton_needs():
    cpu, cuda = steps("cpu"), steps("cuda")
    compiler, torch = [text for word, text in cuda if (word, text) not in cpu]
    assert torch == "pip install --require-hashes --requirement locks/torch.txt"
    assert "gcc" in compiler
    assert not [text for _, text in cpu if "gcc" in text]
    assert len([1 for step in cpu if step not in cuda]) == 2  # the index option, and torch from that index


def test_the_kernels_come_from_a_stage_that_builds_them_where_the_library_looks_for_them():
    (copied,) = [text for word, text in steps("cpu") if word == "COPY" and "--from=kernels" in text]
    *_, source, to = copied.split()
    assert ROOT / to == library.BUILT
    built = image_steps.lineage(image_steps.read(DOCKERFILE, {}), "kernels")
    (copy,) = [step.text.split() for stage in built for step in stage.steps if step.word == "COPY"]
    assert ROOT / copy[0] == library.BUILT.parent
    assert source == f"/kernels/{copy[1]}/{library.BUILT.name}"


def test_what_is_copied_is_in_the_context_and_nothing_else_is(stage):
    copied = [text.split()[:-1] for word, text in steps(stage) if word == "COPY"]
    sources = [name for names in copied if not names[0].startswith("--from") for name in names]
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
    with pytest.raises(image_steps.StepFailed, match="no stage 'gpu'; it has compiler, kernels, system-cpu"):
        image_steps.lineage(image_steps.read(DOCKERFILE, {}), "gpu")


def test_a_digest_stands_behind_the_base_images_name_and_is_replaced():
    digests = [f"sha256:{letter * 64}" for letter in "ab"]
    once = pin_image.pinned(DOCKERFILE, digests[0])
    twice = pin_image.pinned(once, digests[1])
    assert image_steps.read(twice, {})["system-cpu"].parent.endswith(f"bookworm@{digests[1]}")
    assert digests[0] not in twice
    with pytest.raises(ValueError, match="is no digest"):
        pin_image.pinned(DOCKERFILE, "latest")


# --------------------------------------------------------------------------- advisories


def advisory(*events, name="Some_Package", **more):
    about = {
        "package": {"ecosystem": "PyPI", "name": name},
        "ranges": [{"type": "ECOSYSTEM", "events": list(events)}],
    }
    return {"id": "OSV-1", "summary": "It leaks.", "affected": [about], **more}


SINCE = {"introduced": "0"}


@pytest.mark.parametrize(
    ("version", "events", "is_affected"),
    [
        ("1.9", (SINCE, {"fixed": "1.10"}), True),
        ("1.10", (SINCE, {"fixed": "1.10"}), False),
        ("1.10rc1", (SINCE, {"fixed": "1.10"}), True),
        ("2.0", (SINCE, {"last_affected": "2.0"}), True),
        ("2.1", (SINCE, {"last_affected": "2.0"}), False),
        ("1.5", (SINCE, {"fixed": "1.2"}, {"introduced": "1.4"}), True),
        ("1.3", (SINCE, {"fixed": "1.2"}, {"introduced": "1.4"}), False),
    ],
)
def test_a_version_in_a_range_is_affected(version, events, is_affected):
    sbom = {"components": [{"name": "some-package", "version": version}]}
    assert bool(list(audit.affected(sbom, [advisory(*events)]))) is is_affected


def test_the_audit_names_package_version_and_advisory_and_fails(tmp_path, capsys):
    sbom, known = tmp_path / "sbom.json", tmp_path / "known"
    sbom.write_text(
        '{"components": [{"name": "some-package", "version": "1.0"}, {"name": "other", "version": "1"}]}'
    )
    known.mkdir()
    (known / "one.json").write_text(json.dumps(advisory(SINCE, {"fixed": "1.1"})))
    gone = [advisory(SINCE, withdrawn="2026-01-01T00:00:00Z"), advisory(SINCE, name="third")]
    (known / "list.json").write_text(json.dumps(gone))
    assert audit.main([str(sbom), str(known)]) == 1
    assert capsys.readouterr().out == "✗ some-package 1.0: OSV-1 It leaks.; fixed in 1.1\n"
    (known / "one.json").unlink()
    assert audit.main([str(sbom), str(known)]) == 0
