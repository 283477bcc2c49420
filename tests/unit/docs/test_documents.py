"""Documents name only what exists: links, headings, files, modules, make targets, adasd commands and their options."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib
import importlib.util
import io
import re
import subprocess
import textwrap
from functools import cache
from pathlib import Path

import pytest

from cluster import cli
from load_tests.load import command as bench

ROOT = Path(__file__).resolve().parents[3]
FILES = [
    line
    for line in subprocess.check_output(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, text=True
    ).split("\n")
    if line
]
DOCUMENTS = sorted(
    name for name in FILES if name.endswith(".md") and not name.startswith(("docs/evaluation/", "models/"))
)
LIVING = [name for name in DOCUMENTS if name not in ("docs/lab_log.md", "CHANGELOG.md")]
"""All but the documents of history, which name what existed at their time."""

FOLDERS = {name.split("/")[0] for name in FILES if "/" in name}
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
FENCE = re.compile(r"^```[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
ENDINGS = "py|md|c|proto|yaml|json|dot|svg|toml|txt|html|binpb"


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def code(name: str) -> list[str]:
    """Everything between backticks, and every line of a code block."""
    blocks = [line for block in FENCE.findall(read(name)) for line in block.replace("\\\n", " ").splitlines()]
    return CODE.findall(FENCE.sub("", read(name))) + blocks


@cache
def anchors(name: str) -> set[str]:
    """The anchors of this document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.*)$", FENCE.sub("", read(name)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_leads_somewhere(name: str) -> None:
    for target in LINK.findall(FENCE.sub("", read(name))):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        assert file.exists(), f"{name}: {target}"
        if anchor:
            assert anchor in anchors(str(file.resolve().relative_to(ROOT))), f"{name}: {target}"


@pytest.mark.parametrize("name", LIVING)
def test_every_file_exists(name: str) -> None:
    """Checks paths from the root and ends of paths, such as `engine.py` in a page on one folder."""
    for span in code(name):
        for word in re.findall(rf"(?<![\w/.:~-])[\w./-]+\.(?:{ENDINGS})\b(?!\.?[\w/*-])", span):
            known = any(file == word or file.endswith("/" + word.removeprefix("./")) for file in FILES)
            assert known or word in EXAMPLES, f"{name}: {word}"
        for word in re.findall(r"^(\w+)/[\w./-]*$", span):
            path = span.rstrip("/")
            if word in FOLDERS and span not in EXAMPLES:
                assert (ROOT / path).exists() or (ROOT / f"{path}.py").exists(), f"{name}: {span}"


EXAMPLES = {
    "topology.yaml",
    "cluster.yaml",
    "keys.yaml",
    "my/topology.yaml",
    "my/cluster.yaml",
    "A.json",
    "B.json",
    "/openapi.json",
    "adasd/methods/drafting/patient.py",
    "adasd/methods/acceptance/top_two.py",
}
"""Files that a reader makes, and a route."""


@pytest.mark.parametrize("name", LIVING)
def test_every_module_and_attribute_exists(name: str) -> None:
    for span in code(name):
        for module in re.findall(r"python -m ([\w.]+)", span):
            assert importlib.util.find_spec(module), f"{name}: {module}"
        if re.fullmatch(r"(adasd|services|cluster|load_tests)(\.\w+)+", span) and span not in NO_MODULES:
            assert exists(span), f"{name}: {span}"


NO_MODULES = {"adasd.v1.Generation", "adasd.tokens", "cluster.yaml", "adasd.py"}
"""A gRPC service, fields of responses, a file."""

MISSING = object()


def exists(dotted: str) -> bool:
    """Whether it is a module or an attribute of one."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        file = ROOT.joinpath(*parts[:length])
        if file.is_dir() or file.with_suffix(".py").exists():
            thing = importlib.import_module(".".join(parts[:length]))
            for part in parts[length:]:
                if part in getattr(thing, "__dataclass_fields__", ()):
                    return True
                thing = getattr(thing, part, MISSING)
            return thing is not MISSING
    return False


@pytest.mark.parametrize("name", LIVING)
def test_every_make_target_exists(name: str) -> None:
    targets = set(re.findall(r"^([\w-]+):", read("Makefile"), re.MULTILINE))
    for span in code(name):
        for target in re.findall(r"^(?:\S+=\S+ )*make ([a-z][\w-]*)", span.strip()):
            assert target in targets, f"{name}: make {target}"


@cache
def help_text(*words: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.suppress(SystemExit):
        flag = "--help-all" if words[0] in ("serve", "check", "simulate", "plan") else "--help"
        bench.main(["--help"]) if words == ("bench",) else cli.main([*words, flag])
    return output.getvalue()


@pytest.mark.parametrize("name", LIVING)
def test_every_command_and_option_exists(name: str) -> None:
    for span in code(name):
        for words in re.findall(r"(?:^|\.venv/bin/|[|] )adasd ([a-z][^|#`]*)", span.strip()):
            first, *rest = words.split()
            command = (first, rest[0]) if first in ("draft", "k8s") and rest else (first,)
            text = help_text(*command)
            for option in re.findall(r"(?<!\S)(--[a-z][\w-]*)", words):
                assert re.search(rf"{option}\b", text), f"{name}: adasd {words}"


@pytest.mark.parametrize("name", [name for name in FILES if re.fullmatch(r"docs/diagrams/\w+\.dot", name)])
def test_every_diagram_is_rendered_from_its_source(name: str) -> None:
    """`make diagrams` appends the digest of its source to a picture."""
    digest = hashlib.sha256((ROOT / name).read_bytes()).hexdigest()
    assert f"sha256 {digest}" in read(name.replace(".dot", ".svg"))
    assert f"{name.removeprefix('docs/').replace('.dot', '.svg')}" in read("docs/architecture.md")


@pytest.mark.parametrize(
    "name", ["README.md", *(n for n in LIVING if n.startswith("docs/") and n.count("/") == 1)]
)
def test_every_document_is_reached_from_the_readme(name: str) -> None:
    linked = LINK.findall(read("README.md")) + LINK.findall(read("docs/architecture.md"))
    assert name == "README.md" or any(
        target.split("#")[0].removeprefix("docs/") == name.removeprefix("docs/") for target in linked
    )


@pytest.mark.parametrize("name", LIVING)
def test_every_python_example_parses(name: str) -> None:
    for block in re.findall(r"^```python\n(.*?)^```", read(name), re.DOTALL | re.MULTILINE):
        ast.parse(textwrap.dedent(block))
