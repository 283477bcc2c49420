"""The wheel in its own environment and a bare folder: what works without a clone, and what names what it lacks."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import adasd
from tests.e2e.server import ROOT, ask, running
from tests.unit.k8s.kustomize import build

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(folder),
        str(ROOT),
    ]
    subprocess.run(command, check=True, cwd=folder)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel; only its dependencies come from this test's environment."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    found = folder / "bin" / "python"
    install = [
        sys.executable,
        "-m",
        "pip",
        f"--python={found}",
        "install",
        "--quiet",
        "--no-deps",
        str(wheel),
    ]
    subprocess.run(install, check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    # .pth files in a folder that a .pth file added are not run, so editable installs stay hidden.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return found


@pytest.fixture
def run(python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [str(python.with_name("adasd")), *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)

    return run


def test_the_wheel_holds_the_packages_their_data_and_nothing_else(wheel: Path):
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "adasd",
        "cluster",
        "protos",
        "services",
    }
    assert names >= {
        "adasd/engine/forward/native/llama.c",
        "adasd/py.typed",
        *(
            f"services/gateway/playground/{name}"
            for name in ("index.html", "main.js", "style.css", "icon.svg")
        ),
        "cluster/packaged/k8s/base/ray-service.yaml",
        *(f"cluster/packaged/models/demo/{role}/model.safetensors" for role in ("target", "draft")),
    }


def test_the_version_and_the_commands_are_the_package_s(run):
    assert run("--version").stdout == f"adasd {adasd.__version__}\n"
    assert "(comes with the source tree)" in run().stdout


def test_a_load_test_says_what_it_needs(run):
    for words in (["bench", "steady"], ["k8s", "rehearse"]):
        refused = run(*words)
        assert refused.returncode == 2
        assert "comes with the source tree, not with the installed package" in refused.stderr
        assert len(refused.stderr.splitlines()) == 1


def test_the_demo_pair_can_be_checked_and_compared(run):
    assert "adasd-demo can be served" in run("check").stdout
    compared = run("eval", "--n", "1", "--methods", "static-3", "--temperatures", "0", "--max-tokens", "8")
    assert compared.returncode == 0, compared.stderr
    assert "static-3" in compared.stdout


def test_a_rendered_overlay_brings_its_base_along(run, tmp_path: Path):
    for name in ("topology.yaml", "cluster.yaml"):
        (tmp_path / name).write_text("")
    done = run(
        "k8s", "render", "--topology", "topology.yaml", "--cluster", "cluster.yaml", "--out", "overlay"
    )
    assert done.returncode == 0, done.stderr
    assert [d for d in build(tmp_path / "overlay") if d["kind"] == "RayService"]


@pytest.mark.cluster
def test_it_serves_the_demo_pair(python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with running(python=str(python), cwd=tmp_path) as server, server.client() as client:
        assert client.get("/ready").json()["degraded"] is False
        assert client.get("/playground/main.js").headers["content-type"].startswith("text/javascript")
        assert ask(client)["usage"]["completion_tokens"] > 0
