"""No format that can run code on loading is used for outside bytes: checks all our imports and calls."""

from __future__ import annotations

import ast
import pickle
import pickletools
from pathlib import Path

import pytest

from adasd.config import EngineConfig
from adasd.errors import InvalidRequest
from services.settings import load
from services.transport.ask_codec import decode_asks
from services.transport.error_codec import error_from_bytes

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(file for name in ("adasd", "services", "cluster") for file in (ROOT / name).rglob("*.py"))
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "jsonpickle"}
CALLS = {"eval", "exec", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "numpy.load", "np.load"}
PICKLED = pickletools.optimize(pickle.dumps(print))  # what an attacker would send; never loaded here


def dangers(source: str) -> list[str]:
    """A source's imports and calls that may run code while they read data."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            found.append(node.module or "")
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            safe = any(
                word.arg == "weights_only" and ast.unparse(word.value) == "True" for word in node.keywords
            )
            if name in CALLS or (name == "torch.load" and not safe):
                found.append(name)
    return found


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_source_reads_what_could_run(file: Path):
    assert dangers(file.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from cloudpickle import loads",
        "import torch\ntorch.load(path)",
        "import torch\ntorch.load(path, weights_only=False)",
        "import yaml\nyaml.load(text, Loader=yaml.Loader)",
        "eval(text)",
    ],
)
def test_the_look_sees_what_it_is_for(source: str):
    assert dangers(source)


def test_a_pickle_is_refused_where_bytes_come_in():
    with pytest.raises(InvalidRequest):
        decode_asks(PICKLED, {})
    assert error_from_bytes(PICKLED) is None


def test_no_model_brings_code_unless_somebody_says_so():
    assert EngineConfig("model").trust_remote_code is False
    config = load({"target.model": "big", "draft.model": "small"}, {})
    assert config.draft is not None
    assert not config.target.engine.trust_remote_code
    assert not config.draft.engine.trust_remote_code
