"""A pair by name on the command line."""

import pytest

from adasd.errors import ConfigError
from cluster.cli import _settings
from cluster.data import DEMO, packaged


def config(*words):
    return _settings.read_config(_settings.parse(_settings.parser_of("serve", "Serve."), words))


def test_the_demo_pair_by_name_is_the_default():
    assert config("--pair", "demo") == config()
    assert config().target.engine.model == str(DEMO / "target")


def test_smollm2_is_fetched_and_served_under_its_name(monkeypatch, tmp_path):
    def fetch(cache, progress):
        progress("fetching", 0.5)
        return tmp_path / "smollm2-135m-instruct"

    monkeypatch.setattr("adasd.pairs.smollm2.fetch", fetch)
    monkeypatch.setenv("ADASD_CACHE", str(tmp_path))  # no setting of the service
    found = config("--pair", "smollm2")
    assert found.target.engine.model == str(tmp_path / "smollm2-135m-instruct")
    assert found.draft.engine.model == str(packaged("models") / "smollm2-draft")
    assert found.model_name == "smollm2-135m-instruct"
    assert (found.target.engine.weights, found.draft.engine.weights) == ("full", "int8")
    assert config("--pair", "smollm2", "--draft-weights", "full").draft.engine.weights == "full"
    on_a_card = config("--pair", "smollm2", "--draft-device", "cuda", "--draft-num-gpus", "0.3")
    assert on_a_card.draft.engine.weights == "full"
    assert config("--pair", "smollm2", "--model-name", "mine").model_name == "mine"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--pair", "smolm2"), "there is no pair 'smolm2'.*did you mean smollm2"),
        (
            ("--pair", "demo", "--draft", "x"),
            "^--pair demo names both models, but .*leave out --pair, or --draft$",
        ),
    ],
)
def test_bad_pairs_are_one_sentence(words, sentence):
    with pytest.raises(ConfigError, match=sentence):
        config(*words)


@pytest.mark.parametrize("words", ["target: x", "target: {model: x}", "draft: {model: x}"])
def test_a_pair_beside_a_file_that_names_a_model_is_one_sentence(words, tmp_path):
    file = tmp_path / "service.yaml"
    file.write_text(words)
    with pytest.raises(ConfigError, match=rf"^--pair demo names both .*, or {file}: (target|draft)[^\n]*$"):
        config("--pair", "demo", "--config", str(file))
    file.write_text("target: {dtype: bfloat16}")
    assert config("--pair", "demo", "--config", str(file)).target.engine.dtype == "bfloat16"


def test_a_pair_beside_a_variable_that_names_a_model_is_one_sentence(monkeypatch):
    monkeypatch.setenv("ADASD_TARGET_MODEL", "x")
    with pytest.raises(ConfigError, match=r"leave out --pair, or ADASD_TARGET_MODEL$"):
        config("--pair", "demo")
