from load_tests import all as everything
from load_tests import record


def test_all_run_in_order_and_each_has_a_file_that_names_the_hardware(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(record, "hardware", lambda: "abacus-1-cores")
    commands = []
    assert (
        everything.main(["--folder", str(tmp_path / "new")], lambda command: commands.append(command) or 0)
        == 0
    )
    assert [command[2] for command in commands] == [
        "load_tests.round_trip",
        "load_tests.single_stream",
        "load_tests.breakdown",
        "load_tests.batch_throughput",
        "load_tests.start_up",
    ]
    assert [command[-1] for command in commands] == [
        str(tmp_path / "new" / f"{name}-abacus-1-cores.json") for name in everything.BENCHMARKS
    ]
    assert (tmp_path / "new").is_dir()
    assert "5 of 5" in capsys.readouterr().out


def test_one_that_falls_short_does_not_keep_the_others_from_running(tmp_path, capsys):
    commands = []

    def run(command):
        commands.append(command)
        return int(len(commands) == 2)

    assert everything.main(["--folder", str(tmp_path)], run) == 1
    assert len(commands) == 5
    assert "short: single_stream" in capsys.readouterr().out
