"""What a gateway process loads before it can answer: it holds no model, so no model classes either."""

from __future__ import annotations

import subprocess
import sys

import pytest

MODEL_CLASSES = ("transformers.modeling_utils", "torch._dynamo", "scipy", "rfc3987_syntax")
"""Each takes seconds of a core to import. The last one is a package that jsonschema imports wherever it finds it."""


@pytest.mark.parametrize("module", ["services.orchestrator.deployment", "cluster.app"])
def test_a_gateway_loads_no_model_classes(module):
    code = f"import sys, {module}; print(*sorted(sys.modules.keys() & {set(MODEL_CLASSES)}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
