"""The committed generated code is up to date, and every field of the .proto files is explained."""

from __future__ import annotations

import shutil

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto, FileDescriptorSet
from grpc_tools import protoc

from services.transport import compatibility, generate

FIELD, ENUM_VALUE = DescriptorProto.FIELD_FIELD_NUMBER, EnumDescriptorProto.VALUE_FIELD_NUMBER


@pytest.fixture
def copied(tmp_path):
    """A repository root with nothing but the protos."""
    shutil.copytree(generate.ROOT / generate.PACKAGE, tmp_path / generate.PACKAGE)
    return tmp_path


def test_the_committed_code_is_what_the_sources_generate():
    assert generate.main(["--check"]) == 0


def test_a_changed_source_is_noticed_and_regenerated(copied, capsys):
    source = copied / generate.PACKAGE / "worker.proto"
    source.write_text(source.read_text().replace("uint32 max_len = 2", "uint32 longest = 2"))
    assert generate.main(["--check", "--root", str(copied)]) == 1
    assert "worker_pb2.py is stale" in capsys.readouterr().err
    assert generate.main(["--root", str(copied)]) == 0
    assert generate.main(["--check", "--root", str(copied)]) == 0


def test_generated_code_without_a_source_is_noticed(copied):
    (copied / generate.PACKAGE / "old_pb2.py").write_text("")
    assert generate.main(["--check", "--root", str(copied)]) == 1
    assert generate.main(["--root", str(copied)]) == 0
    assert not (copied / generate.PACKAGE / "old_pb2.py").exists()


def test_every_field_every_value_and_every_method_has_a_comment(tmp_path):
    out = tmp_path / "protos.bin"
    sources = sorted(str(path) for path in (generate.ROOT / generate.PACKAGE).glob("*.proto"))
    arguments = [f"--proto_path={generate.ROOT}", "--include_source_info", f"--descriptor_set_out={out}"]
    assert protoc.main(["protoc", *arguments, *sources]) == 0
    bare = []
    for file in FileDescriptorSet.FromString(out.read_bytes()).file:
        explained = {
            tuple(location.path)
            for location in file.source_code_info.location
            if location.leading_comments or location.trailing_comments
        }
        bare += [name for path, name in _described(file) if path not in explained]
    assert bare == []


def test_the_committed_baseline_is_current():
    assert compatibility.main(["--check"]) == 0


BREAKING = {
    "a removed field": ("  int32 stop_token_id = 5;", "  //"),
    "a renumbered field": ("string request_id = 1;", "string request_id = 91;"),
    "another type": ("optional double temperature = 2;", "optional float temperature = 2;"),
    "a lost presence": ("optional double temperature = 2;", "double temperature = 2;"),
    "a renamed field": ("optional double top_p = 3;", "optional double nucleus = 3;"),
    "a repeated field": ("  string text = 1;", "  repeated string text = 1;"),
    "a renumbered value": ("TOKEN_KIND_BONUS = 4;", "TOKEN_KIND_BONUS = 44;"),
    "an answer at once": ("returns (stream GenerateResponse)", "returns (GenerateResponse)"),
    "a removed method": ("rpc Abort(AbortRequest) returns (AbortResponse);", ""),
    "another oneof": ("oneof stop_match {", "oneof end {"),
}


@pytest.mark.parametrize("change", BREAKING.values(), ids=BREAKING)
def test_a_breaking_change_is_refused_until_it_is_accepted(copied, change, capsys):
    source = copied / generate.PACKAGE / "generation.proto"
    assert source.read_text().count(change[0]) >= 1
    source.write_text(source.read_text().replace(*change))
    root = ["--root", str(copied)]
    assert compatibility.main(["--check", *root]) == compatibility.main(root) == 1
    assert "adasd.v1." in capsys.readouterr().err
    assert compatibility.main(["--accept-breaking", *root]) == 0
    assert compatibility.main(["--check", *root]) == 0


def test_an_addition_is_no_break_but_has_to_enter_the_baseline(copied, capsys):
    source = copied / generate.PACKAGE / "generation.proto"
    source.write_text(source.read_text() + "message New { string name = 1; }")
    assert compatibility.main(["--check", "--root", str(copied)]) == 1
    assert "baseline.binpb is stale" in capsys.readouterr().err
    assert compatibility.main(["--root", str(copied)]) == 0
    assert compatibility.main(["--check", "--root", str(copied)]) == 0


def _described(file):
    for i, message in enumerate(file.message_type):
        for j, field in enumerate(message.field):
            yield (4, i, FIELD, j), f"{message.name}.{field.name}"
    for i, enum in enumerate(file.enum_type):
        for j, value in enumerate(enum.value):
            yield (5, i, ENUM_VALUE, j), f"{enum.name}.{value.name}"
    for i, service in enumerate(file.service):
        for j, method in enumerate(service.method):
            yield (6, i, 2, j), f"{service.name}.{method.name}"
