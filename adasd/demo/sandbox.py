"""Runs a small untrusted function on a few inputs: allowed syntax only, in its own process, with limits.

There are two barriers. The source may use only the syntax and builtins listed here (no import, no attribute but
`append`, no underscore names). It then runs in a new interpreter without site packages or environment, with limits on
time and memory. This is enough for output of the demo models, but not for hostile code.
"""

import ast
import json
import subprocess
import sys
from collections.abc import Sequence

TIME_LIMIT_S = 5.0
MEMORY_LIMIT_BYTES = 512 * 2**20
BUILTINS = (
    "sum",
    "max",
    "min",
    "len",
    "range",
    "abs",
    "sorted",
    "list",
    "int",
    "str",
    "bool",
    "enumerate",
    "round",
)
METHODS = ("append",)

_ALLOWED = (
    ast.Module, ast.FunctionDef, ast.arguments, ast.arg, ast.Return, ast.Assign, ast.AugAssign,
    ast.For, ast.If, ast.While, ast.Break, ast.Continue, ast.Pass, ast.Expr, ast.Call, ast.Attribute,
    ast.Name, ast.Load, ast.Store, ast.Constant, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp,
    ast.Subscript, ast.Slice, ast.List, ast.Tuple, ast.ListComp, ast.GeneratorExp, ast.comprehension,
    ast.operator, ast.unaryop, ast.boolop, ast.cmpop,
)  # fmt: skip

_RUNNER = """
import json, resource, sys
job = json.load(sys.stdin)
for kind, limit in ((resource.RLIMIT_CPU, job["cpu_s"]), (resource.RLIMIT_AS, job["bytes"])):
    try:
        resource.setrlimit(kind, (limit, limit))
    except (OSError, ValueError):
        pass  # a system without this limit; the clock outside still holds
import builtins
space = {"__builtins__": {name: getattr(builtins, name) for name in job["builtins"]}}
exec(job["source"], space)
json.dump([space[job["name"]](value) for value in job["inputs"]], sys.stdout)
"""


class Refused(ValueError):
    """The source does not parse, or uses something that is not allowed."""


def inspect(source: str) -> None:
    """Raise `Refused` unless all syntax in `source` is allowed."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise Refused(f"not Python: {error}") from error
    for node in ast.walk(tree):
        if not isinstance(node, _ALLOWED) or isinstance(node, ast.Pow):
            raise Refused(f"{type(node).__name__} is not allowed")
        if isinstance(node, ast.Attribute) and node.attr not in METHODS:
            raise Refused(f"attribute {node.attr} is not allowed")
        if isinstance(node, ast.Name) and node.id.startswith("_"):
            raise Refused(f"name {node.id} is not allowed")


def outputs(source: str, name: str, inputs: Sequence[object]) -> list[object] | None:
    """The results of function `name` of `source` for each input; None if it is refused, fails or is too slow.

    Inputs and outputs are JSON values.
    """
    try:
        inspect(source)
    except Refused:
        return None
    job = {
        "source": source,
        "name": name,
        "inputs": list(inputs),
        "builtins": BUILTINS,
        "cpu_s": int(TIME_LIMIT_S),
    }
    job["bytes"] = MEMORY_LIMIT_BYTES
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _RUNNER],
            input=json.dumps(job),
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT_S,
            env={},
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None
    if done.returncode != 0:
        return None
    found: list[object] = json.loads(done.stdout)
    return found
