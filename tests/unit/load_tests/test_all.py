from load_tests import all as everything
from load_tests import record


def test_all_run_in_order_and_each_has_a_file_that_names_the_hardware(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(record, "hardware", lambda: "abacus-1-cores")
    commands = []
    assert (
        everything.main(["--folder", str(tmp_path / "new")], lambda command: commands.append(command) or 0)
        == 0
    )
    assert [command[2] for command in commands] == [f"load_tests.{name}" for name in everything.BENCHMARKS]
    assert len({*everything.BENCHMARKS}) == len(everything.BENCHMARKS) >= 4
    assert [command[-1] for command in commands] == [
        str(tmp_path / "new" / f"{name}-abacus-1-cores.json") for name in everything.BENCHMARKS
    ]
    assert (tmp_path / "new").is_dir()
    num = len(everything.BENCHMARKS)
    assert f"{num} of {num}" in capsys.readouterr().out


def test_one_that_falls_short_does_not_keep_the_others_from_running(tmp_path, capsys):
    commands = []

    def run(command):
        commands.append(command)
        return int(command[2] == "load_tests.single_stream")

    assert everything.main(["--folder", str(tmp_path)], run) == 1
    assert len(commands) == len(everything.BENCHMARKS)
    assert "short: single_stream" in capsys.readouterr().out
