import pytest

from load_tests import benchmarks, record


def test_all_run_in_order_and_each_has_a_file_that_names_the_hardware(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(record, "hardware", lambda: "abacus-1-cores")
    commands = []
    assert (
        benchmarks.main(["--folder", str(tmp_path / "new")], lambda command: commands.append(command) or 0)
        == 0
    )
    assert [command[2] for command in commands] == [f"load_tests.{name}" for name in benchmarks.BENCHMARKS]
    assert len({*benchmarks.BENCHMARKS}) == len(benchmarks.BENCHMARKS) >= 4
    names = [name.rpartition(".")[2] for name in benchmarks.BENCHMARKS]
    names = [name + "_enlarged" * (name == "service_stream") for name in names]
    assert [command[-1] for command in commands] == [
        str(tmp_path / "new" / f"{name}-abacus-1-cores.json") for name in names
    ]
    (service,) = (command for command in commands if command[2] == "load_tests.throughput.service_stream")
    assert service[3] == "--enlarged"
    assert "load_tests.throughput.flip_rate" in {command[2] for command in commands}
    assert (tmp_path / "new").is_dir()
    num = len(benchmarks.BENCHMARKS)
    assert f"{num} of {num}" in capsys.readouterr().out


def test_one_that_falls_short_does_not_keep_the_others_from_running(tmp_path, capsys):
    commands = []

    def run(command):
        commands.append(command)
        return int(command[2] == "load_tests.throughput.single_stream")

    assert benchmarks.main(["--folder", str(tmp_path)], run) == 1
    assert len(commands) == len(benchmarks.BENCHMARKS)
    assert "short: single_stream" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "on_path", "passed"),
    [
        ([], None, None),
        ([], "/usr/bin/llama-server", "/usr/bin/llama-server"),
        (["own"], "/usr/bin/it", "own"),
    ],
)
def test_llama_cpp_is_measured_where_its_server_is_given_or_found(
    tmp_path, monkeypatch, given, on_path, passed
):
    monkeypatch.setattr(benchmarks.shutil, "which", lambda _: on_path)
    commands = []
    options = ["--folder", str(tmp_path), *(f"--llama-server={path}" for path in given)]
    assert benchmarks.main(options, lambda command: commands.append(command) or 0) == 0
    for command in commands:
        told = command[command.index("--llama-server") + 1] if "--llama-server" in command else None
        assert told == (passed if command[2] == "load_tests.throughput.single_stream" else None)
