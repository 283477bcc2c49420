"""API keys: from a file or the environment, hashed at once, never quoted in a message."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path

import pytest

from adasd.errors import ConfigError
from services import settings
from services.config import ApiKey, ServeConfig

SECRET = "sk-very-secret"
HASH = hashlib.sha256(SECRET.encode()).hexdigest()


def load(variable=None, **arguments) -> ServeConfig:
    environment = {} if variable is None else {"ADASD_API_KEYS": variable}
    return settings.load(arguments, environment, None, Path("/demo"))


def file_of(folder: Path, content) -> str:
    file = folder / "keys.yaml"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(file)


def test_nothing_given_means_no_keys():
    assert load().api_keys == ()


def test_keys_come_from_a_file_with_limits_or_as_hashes(tmp_path):
    content = f"""
    alice: {SECRET}
    bob: sha256:{"AB" * 32}
    carol: {{key: other-key, requests_per_minute: 60, max_concurrent: 4}}
    dave: {{sha256: {"cd" * 32}}}
    """
    keys = load(api_keys_file=file_of(tmp_path, content), key_max_concurrent="9").api_keys
    assert keys[0] == ApiKey("alice", HASH, None, 9)
    assert keys[1].sha256 == "ab" * 32
    assert keys[2] == ApiKey("carol", hashlib.sha256(b"other-key").hexdigest(), 60, 4)
    assert keys[3].sha256 == "cd" * 32


@pytest.mark.parametrize(
    ("variable", "names"),
    [
        (SECRET, ["key-1"]),
        (f"alice={SECRET}, bob=b2", ["alice", "bob"]),
        (f"{SECRET},bob=abc==,xyz", ["key-1", "bob", "key-3"]),
        (json.dumps({"alice": SECRET, "bob": {"key": "b2", "max_concurrent": 1}}), ["alice", "bob"]),
    ],
)
def test_keys_come_from_the_environment(variable, names):
    assert [key.name for key in load(variable).api_keys] == names


def test_base64_padding_belongs_to_the_key():
    keys = load("bob=abc==,eve=xyz=").api_keys
    assert [k.sha256 for k in keys] == [hashlib.sha256(t).hexdigest() for t in (b"abc==", b"xyz=")]


def test_both_sources_add_up(tmp_path):
    keys = load("bob=b2", api_keys_file=file_of(tmp_path, {"alice": SECRET})).api_keys
    assert [key.name for key in keys] == ["alice", "bob"]


def test_the_key_itself_is_not_kept(tmp_path):
    config = load(f"alice={SECRET}")
    assert SECRET.encode() not in pickle.dumps(config)
    assert HASH not in repr(config)


def test_a_file_is_found_beside_the_configuration(tmp_path):
    file_of(tmp_path, {"alice": SECRET})
    config_file = tmp_path / "adasd.yaml"
    config_file.write_text("api_keys_file: keys.yaml\n")
    assert settings.load({}, {}, config_file, Path("/demo")).api_keys[0].name == "alice"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no API keys"),
        ("{}", "holds no API keys"),
        (f"- {SECRET}", "holds a list"),
        (f"{{{SECRET}", "neither YAML nor JSON"),
        ({"alice": 12345}, "is not text"),
        ({"alice": ""}, "is not text"),
        ({"alice": "two words" + SECRET}, "printable ASCII without blanks"),
        ({"alice": "sha256:abc"}, "64 hexadecimal digits"),
        ({"alice": {"key": SECRET, "sha256": "ab" * 32}}, "either key or sha256"),
        ({"alice": {}}, "either key or sha256"),
        ({"alice": {"key": SECRET, "limit": 5}}, "unknown"),
        ({"alice": {"key": SECRET, "max_concurrent": 0}}, "at least 1"),
        ({"alice": {"key": SECRET, "requests_per_minute": "many"}}, "at least 1"),
        ({"two names": SECRET}, "a name has"),
        ({"alice": SECRET, "bob": SECRET}, "its key is given twice"),
    ],
)
def test_what_is_no_key_is_refused_without_being_quoted(tmp_path, content, message):
    with pytest.raises(ConfigError, match=message) as refused:
        load(api_keys_file=file_of(tmp_path, content))
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("variable", ["", " , ", "alice=a,alice=b", "alice=", "alice= ", "abc=="])
def test_an_environment_without_usable_keys_opens_no_door(variable):
    with pytest.raises(ConfigError):
        load(variable)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot read api_keys_file"):
        load(api_keys_file=str(tmp_path / "absent"))


def test_the_clients_own_variable_disturbs_no_server():
    assert settings.load({}, {"ADASD_API_KEY": SECRET}, None, Path("/demo")).api_keys == ()


def test_origins_are_a_list_in_every_spelling(tmp_path):
    file = tmp_path / "adasd.yaml"
    file.write_text("cors_origins: [https://a.example, 'http://b.example:8080']\n")
    both = ("https://a.example", "http://b.example:8080")
    assert settings.load({}, {}, file, Path("/demo")).cors_origins == both
    assert load(cors_origins=",".join(both)).cors_origins == both
    for wrong in ("a.example", "https://a.example/", "https://a.example/x"):
        with pytest.raises(ConfigError, match="cors_origins"):
            load(cors_origins=wrong)
