"""Settings on the command line: they arrive by name; mistakes get one sentence and status 2."""

from __future__ import annotations

import pytest

from cluster import cli
from cluster.cli._settings import parse, parser_of
from services import settings


def named(*words: str) -> dict[str, object]:
    arguments = parse(parser_of("serve", ""), words)
    return {name: value for name, value in vars(arguments).items() if name in settings.options()}


def test_options_arrive_under_the_names_of_the_settings():
    words = ("--target", "org/big", "--draft-num-slots", "4", "--mode", "adaptive")
    assert named(*words) == {
        "target.model": "org/big",
        "draft.num_slots": "4",
        "speculation.mode": "adaptive",
    }


def test_a_switch_may_stand_alone_or_have_a_value():
    alone = named("--target-trust-remote-code")
    valued = named("--target-trust-remote-code", "false")
    assert (alone["target.trust_remote_code"], valued["target.trust_remote_code"]) == ("true", "false")


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["serve", "--prot", "8000"], "there is no option '--prot'; did you mean '--port'?"),
        (
            ["serve", "--target-dtpye=float32"],
            "there is no option '--target-dtpye'; did you mean '--target-dtype'?",
        ),
        (["chat", "--mod", "off"], "did you mean '--mode'?"),
        (["serve", "--port"], "expected one argument"),
    ],
)
def test_a_slip_leaves_with_status_2_and_the_nearest_option(argv, sentence, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(argv)
    assert left.value.code == 2
    assert sentence in capsys.readouterr().err


def shown(flag: str, capsys) -> str:
    with pytest.raises(SystemExit) as left:
        cli.main(["serve", flag])
    assert left.value.code == 0
    return capsys.readouterr().out


def test_the_whole_help_lists_every_setting_with_its_default(capsys):
    text = shown("--help-all", capsys)
    assert all(option.flag in text for option in settings.options().values())
    assert "HTTP port [8000]" in " ".join(text.split())
    assert "more options" not in text


def test_the_short_help_fits_two_screens_and_names_the_long_one(capsys):
    text = shown("--help", capsys)
    options = [line for line in text.splitlines() if line.startswith("  -")]
    assert len(options) < 35
    assert [line for line in options if "--worker-tls" in line or "--prefill-chunk" in line] == []
    assert text.rstrip().endswith("more options: adasd serve --help-all")
    assert {title for title in ("target tier:", "draft tier:", "speculation:", "service:") if title in text}


def test_a_placeholder_says_what_to_write(capsys):
    text = " ".join(shown("--help-all", capsys).split())
    for written in (
        "--request-timeout-s SECONDS",
        "--port PORT",
        "--target PATH_OR_ID",
        "--draft-resources NAME=VALUE,...",
        "--speculation-bypass [true|false]",
        "--target-num-slots N",
        "--target-dtype auto|",
        "--tls-key FILE",
        "--draft-cache-bytes BYTES",
    ):
        assert written in text


def test_old_flags_still_set_their_option():
    assert named("--speculation-row-len", "7") == {"speculation.draft_top_k": "7"}


def test_wrong_settings_are_named_on_stderr_with_status_2(capsys, monkeypatch):
    monkeypatch.setenv("ADASD_PORT", "x")
    assert cli.main(["check", "--target-num-slots", "many"]) == 2
    err = capsys.readouterr().err.splitlines()
    assert err == [
        "adasd check: --target-num-slots: 'many' is not a whole number",
        "adasd check: ADASD_PORT: 'x' is not a whole number",
    ]
