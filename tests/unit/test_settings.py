"""Settings: one mechanism for file, environment and command line; refuses unknown names and bad values."""

from __future__ import annotations

from pathlib import Path

import pytest

from adasd.errors import ConfigError
from adasd.requests import Mode
from services import settings
from services.config import ServeConfig

DEMO = Path("/demo")


def load(arguments=None, environment=None, file=None, demo=DEMO) -> ServeConfig:
    return settings.load(arguments or {}, environment or {}, file, demo)


def write(folder: Path, text: str) -> Path:
    file = folder / "adasd.yaml"
    file.write_text(text)
    return file


def test_nothing_given_serves_the_demo_pair_with_the_defaults():
    config = load()
    assert config.target.engine.model == "/demo/target"
    assert config.draft is not None
    assert config.draft.engine.model == "/demo/draft"
    assert (config.port, config.grpc_port, config.host) == (8000, 9000, "127.0.0.1")
    assert config.speculation.mode is Mode.EXACT
    assert config.model_name == "adasd-demo"


def test_without_a_demo_a_target_is_needed():
    with pytest.raises(ConfigError, match=r"target\.model is required"):
        load(demo=None)


def test_a_target_of_ones_own_gets_no_demo_draft_and_lends_its_name():
    config = load({"target.model": "org/Big-7B"})
    assert config.draft is None
    assert config.model_name == "Big-7B"


def test_a_draft_can_be_switched_off():
    assert load({"draft.model": "none"}).draft is None


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(tmp_path):
    file = write(tmp_path, "port: 1001\ngrpc_port: 1002\ntarget:\n  num_slots: 7\n")
    environment = {"ADASD_PORT": "2001", "ADASD_GRPC_PORT": "2002", "HOME": "/", "OTHER": "x"}
    config = load({"port": "3001"}, environment, file)
    assert (config.port, config.grpc_port, config.target.engine.num_slots) == (3001, 2002, 7)


def test_short_names_work_in_the_file_and_in_the_environment(tmp_path):
    file = write(tmp_path, "target: org/big\ndraft: org/small\nmode: adaptive\n")
    config = load(file=file)
    assert config.draft is not None
    assert (config.target.engine.model, config.draft.engine.model) == ("org/big", "org/small")
    assert config.speculation.mode is Mode.ADAPTIVE
    assert load(environment={"ADASD_TARGET": "org/other"}).target.engine.model == "org/other"


@pytest.mark.parametrize(("old", "new"), settings.OLD_NAMES.items())
def test_an_old_name_still_sets_the_option(tmp_path, old, new):
    section, _, name = old.partition(".")
    nested = load(file=write(tmp_path, f"{section}: {{{name}: 7}}"))
    assert nested == load({new: "7"})
    assert nested == load(environment={settings.ENVIRONMENT_PREFIX + old.replace(".", "_").upper(): "7"})


def test_a_bare_off_in_yaml_is_the_mode_and_not_false(tmp_path):
    assert load(file=write(tmp_path, "mode: off\n")).speculation.mode is Mode.OFF


def test_a_model_folder_is_found_beside_the_file_that_names_it(tmp_path):
    (tmp_path / "weights").mkdir()
    config = load(file=write(tmp_path, "target: weights\n"))
    assert config.target.engine.model == str(tmp_path / "weights")


def test_every_field_of_the_configuration_is_an_option_with_a_sentence():
    assert {"target.model", "draft.num_gpus", "speculation.drafting", "port"} <= set(settings.options())
    assert all(option.sentence for option in settings.options().values())
    assert settings.options()["target.model"].flag == "--target"
    assert settings.options()["draft.num_slots"].flag == "--draft-num-slots"


@pytest.mark.parametrize("name", sorted(settings.options()))
def test_every_default_passes_its_own_check(name):
    option = settings.options()[name]
    if isinstance(option.default, str | int | float):
        assert settings.parse(option, option.default) == option.default
        assert settings.parse(option, str(option.default)) == option.default


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("prot", "port"),
        ("target.num_slot", "target.num_slots"),
        ("speculation.drafitng", "speculation.drafting"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(tmp_path, wrong, right):
    with pytest.raises(ConfigError, match=f"no setting '{wrong}'; did you mean '{right}'"):
        load(file=write(tmp_path, f"{wrong}: 1\n"))


def test_an_unknown_environment_variable_of_ours_is_refused():
    with pytest.raises(ConfigError, match=r"ADASD_TARGET_DTIPE.*did you mean"):
        load(environment={"ADASD_TARGET_DTIPE": "float32"})


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("port", "eighty", "--port: 'eighty' is not a whole number"),
        ("port", "70000", "must be between 1 and 65535"),
        ("port", "8000.5", "not a whole number"),
        ("target.num_slots", "0", "must be between 1 and 65536"),
        ("request_timeout_s", "nan", "not a finite number"),
        ("request_timeout_s", "-1", "must be at least 0.001"),
        ("speculation.max_relaxed_fraction", "1.5", "must be between 0 and 1"),
        ("speculation.mode", "exakt", "is not one of off, exact, adaptive; did you mean 'exact'"),
        ("target.dtype", "float23", "did you mean 'float32'"),
        ("target.trust_remote_code", "perhaps", "not true or false"),
        ("target.resources", "gpu", "not of the form name=value"),
        ("target.resources", "gpu=many", "not a number"),
        ("target.resources", "gpu=-1", "must be at least 0"),
        ("host", "  ", "is not text"),
    ],
)
def test_a_wrong_value_says_where_what_and_what_is_expected(name, raw, message):
    with pytest.raises(ConfigError) as caught:
        load({name: raw})
    assert message in str(caught.value)
    assert settings.options()[name].flag in str(caught.value)


@pytest.mark.parametrize("text", ["port: true", "port: [1]", "port: null", "port: {a: 1}", "host: 5"])
def test_a_yaml_value_of_another_type_is_refused(tmp_path, text):
    with pytest.raises(ConfigError, match=r"is not (a|text)"):
        load(file=write(tmp_path, text))


@pytest.mark.parametrize("text", ["{", "- 1", "\x00", "just words"])
def test_a_file_that_holds_no_settings_is_refused(tmp_path, text):
    with pytest.raises(ConfigError, match=r"adasd\.yaml"):
        load(file=write(tmp_path, text))


def test_an_absent_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot read the configuration file"):
        load(file=tmp_path / "none.yaml")


def test_an_empty_file_changes_nothing(tmp_path):
    assert load(file=write(tmp_path, "")) == load()


def test_mappings_are_read_from_text_and_from_yaml(tmp_path):
    text = load({"target.label_selector": "pool=big, zone=a", "target.resources": "slot=2"})
    yaml = load(
        file=write(tmp_path, "target:\n  label_selector: {zone: a, pool: big}\n  resources: {slot: 2}\n")
    )
    assert text.target.label_selector == (("pool", "big"), ("zone", "a"))
    assert yaml.target.resources == (("slot", 2.0),) == text.target.resources


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"target.min_replicas": "3", "target.max_replicas": "2"},
            "target.min_replicas is 3, but max_replicas is 2",
        ),
        ({"target.min_replicas": "0"}, "at least one target replica"),
        ({"port": "9000"}, "grpc_port and port are both 9000"),
        ({"target.num_gpus": "1.5"}, "whole GPUs"),
        ({"target.num_gpus": "4"}, "target.tensor_parallel is 1, but num_gpus is 4"),
        (
            {"target.tensor_parallel": "2", "target.num_gpus": "3"},
            "target.tensor_parallel is 2, but num_gpus is 3; each rank has a GPU of its own",
        ),
        ({"draft.tensor_parallel": "2"}, "draft.tensor_parallel is 2, but a draft runs on one rank"),
        ({"target.num_devices": "2"}, "--target-num-devices: .* set target.tensor_parallel to their number"),
        ({"draft.num_devices": "1"}, "draft.num_devices is no longer a setting, as a draft runs on one card"),
        ({"draft.device": "cpu", "draft.num_gpus": "1"}, "draft.num_gpus is 1, but device is cpu"),
        ({"target.device": "cuda"}, "Ray hides all GPUs"),
        ({"speculation.drafting": "adads"}, "speculation.drafting: .*adasd"),
        ({"speculation.acceptance": "magic"}, "speculation.acceptance: .*adasd-v1"),
        ({"draft.model": "none", "draft.dtype": "float16"}, "there is no draft model"),
        ({"tls.certificate": "/a.pem"}, "tls has only a certificate or only a key"),
        ({"target": "Qwen/Qwen3-8B", "model_roots": "/models,hf:meta/"}, "is in none of model_roots"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        load(arguments)


def test_models_cannot_leave_the_allowed_roots(tmp_path, monkeypatch):
    inside, outside = tmp_path / "models" / "big", tmp_path / "elsewhere"
    inside.mkdir(parents=True)
    outside.mkdir()
    (tmp_path / "models" / "link").symlink_to(outside)
    (tmp_path / "models-too").mkdir()
    monkeypatch.chdir(tmp_path)
    roots = [str(tmp_path / "models"), "hf:Qwen/"]
    for model in (
        str(inside),
        "models/big",
        "./models/../models/big",
        "Qwen/Qwen3-8B",
        str(inside / "absent"),
    ):
        assert settings.may_be_served(model, roots), model
    for model in (
        str(outside),
        "elsewhere",
        "models/../elsewhere",
        "models/link",
        str(tmp_path / "models-too"),
        "../secret",
        "~/secret",
        "Qwen2/other",
        "meta/Llama",
        "/",
    ):
        assert not settings.may_be_served(model, roots), model
        assert settings.may_be_served(model, ())


def test_no_model_brings_code_unless_that_is_asked_for():
    assert [tier.engine.trust_remote_code for tier in load({}).tiers.values()] == [False, False]


def test_a_draft_tier_may_be_empty():
    config = load({"draft.min_replicas": "0", "draft.max_replicas": "4"})
    assert config.draft is not None
    assert config.draft.min_replicas == 0


def test_all_problems_are_reported_at_once():
    with pytest.raises(ConfigError) as caught:
        load({"port": "x", "host": "", "target.num_slots": "0"})
    assert len(str(caught.value).splitlines()) == 3


def test_lists_are_read_from_text_and_from_yaml(tmp_path):
    wanted = ("https://a.example", "https://b.example")
    assert load({"cors_origins": "https://a.example, https://b.example"}).cors_origins == wanted
    assert (
        load(file=write(tmp_path, "cors_origins: [https://a.example, https://b.example]")).cors_origins
        == wanted
    )
    with pytest.raises(ConfigError, match="is not text"):
        load(file=write(tmp_path, "cors_origins: [5]"))
    with pytest.raises(ConfigError, match="is not a list"):
        load(file=write(tmp_path, "cors_origins: {a: b}"))


# --------------------------------------------------------------------------- draft sources


def test_further_drafts_have_names_of_their_own_and_every_setting_of_a_tier(tmp_path: Path):
    file = tmp_path / "serve.yaml"
    (tmp_path / "small").mkdir()
    file.write_text("target: t\ndrafts:\n  tiny: {model: small, num_slots: 7, max_replicas: 3}\n  other: o\n")
    config = settings.load({"draft": "d"}, {}, file)
    assert list(config.draft_tiers) == ["model", "other", "tiny"]
    assert list(config.tiers) == ["target", "draft", "draft-other", "draft-tiny"]
    tiny = config.draft_tiers["tiny"]
    assert tiny.engine.model == str((tmp_path / "small").resolve())
    assert (tiny.engine.num_slots, tiny.max_replicas) == (7, 3)
    assert config.draft_tiers["other"].engine.model == "o"


def test_further_drafts_on_the_command_line_and_in_the_environment():
    assert list(settings.load({"target": "t", "drafts": "a=x,b=y"}, {}).draft_tiers) == ["a", "b"]
    assert list(settings.load({"target": "t"}, {"ADASD_DRAFTS": "a=x"}).draft_tiers) == ["a"]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"drafts": "suffix=x"}, "'suffix' is not a valid name"),
        ({"drafts": "Tiny=x"}, "'Tiny' is not a valid name"),
        ({"drafts.tiny.num_slots": 3}, "drafts.tiny: the model is missing"),
        ({"drafts.tiny.num_slotz": 3}, "there is no setting 'drafts.tiny.num_slotz'"),
        ({"drafts": "tiny=x", "drafts.tiny.num_slots": 0}, "out of range"),
        ({"draft_source": "suffixx"}, "it offers: model, ngram, suffix, auto"),
    ],
    ids=str,
)
def test_wrong_draft_sources_are_refused(given: dict[str, object], sentence: str):
    with pytest.raises(ConfigError, match=sentence):
        settings.load({"target": "t", "draft": "d", **given}, {})  # type: ignore[dict-item]


def test_the_default_source_has_a_short_name():
    config = settings.load({"target": "t", "draft_source": "suffix"}, {})
    assert config.speculation.draft == "suffix"


def test_a_target_that_drafts_for_itself_is_a_source_and_takes_no_draft_model():
    config = settings.load({"target": "t", "target.early_exit": "true", "draft_source": "self"}, {})
    assert config.draft_sources == ("self",)
    with pytest.raises(ConfigError, match="set draft to none"):
        settings.load({"target": "t", "draft": "d", "target.early_exit": "true"}, {})
    with pytest.raises(ConfigError, match=r"draft.early_exit is on; only the target"):
        settings.load({"target": "t", "draft": "d", "draft.early_exit": "true"}, {})
    with pytest.raises(ConfigError, match="no draft source 'self'"):
        settings.load({"target": "t", "draft": "d", "draft_source": "self"}, {})
