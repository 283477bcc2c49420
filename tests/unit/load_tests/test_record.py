import json
import re

import pytest

from load_tests import record


def test_circumstances_say_what_ran_where_and_with_which_versions():
    header = record.circumstances("throughput.single_stream", ["--prompts", "3", "--json", "a b"], threads=1)
    assert header["command"] == "python -m load_tests.throughput.single_stream --prompts 3 --json 'a b'"
    assert header["machine"]["cores"] >= 1
    assert header["machine"]["cpu"]
    assert len(header["machine"]["load_average"]) == 3
    assert header["versions"]["torch"].startswith("2.")
    assert header["threads"] == 1
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", header["date"])
    assert header["commit"] is None or re.fullmatch(r"[0-9a-f]{7,}(-dirty)?", header["commit"])


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["--json", f"{record.ROOT}/load_tests/baselines/one.json"], "--json load_tests/baselines/one.json"),
        ([f"--json={record.ROOT}/one.json"], "--json=one.json"),
        (
            ["--against", "/home/somebody/before", "--json", "/tmp/one two.json"],
            "--against before --json 'one two.json'",
        ),
        (["--url", "http://127.0.0.1:8000", "--set", "a/b=1"], "--url http://127.0.0.1:8000 --set a/b=1"),
        (["--json", "there/one.json"], "--json there/one.json"),
    ],
)
def test_the_command_names_no_folder_of_this_machine(arguments, shown):
    assert record.command_line(["adasd", "bench"], arguments) == f"adasd bench {shown}"


def test_no_baseline_names_a_folder_of_the_machine_that_it_was_measured_on():
    commands = [
        json.loads(file.read_text())["command"]
        for file in (record.ROOT / "load_tests/baselines").glob("*.json")
    ]
    assert commands
    assert not [command for command in commands if re.search(r"(^|[\s='\"])/", command)]


def test_a_package_that_is_not_there_has_no_version():
    assert record.version("surely-not-installed") is None


@pytest.mark.parametrize(
    ("cpu", "name"),
    [
        ("Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz", "intel-xeon-platinum-8481c-2-cores"),
        ("AMD EPYC 7B13", "amd-epyc-7b13-2-cores"),
        ("Some Processor", "some-2-cores"),
    ],
)
def test_hardware_is_fit_for_a_file_name(monkeypatch, cpu, name):
    monkeypatch.setattr(record, "cpu_model", lambda: cpu)
    monkeypatch.setattr(record, "num_cores", lambda: 2)
    assert record.hardware() == name


def test_what_is_written_can_be_read(tmp_path):
    file = tmp_path / "new" / "figures.json"
    record.write(file, {"commit": "abc"}, {"median": 1.5})
    assert json.loads(file.read_text()) == {"commit": "abc", "median": 1.5}
