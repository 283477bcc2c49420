"""Model names as clients see them: no paths, and no words that only name the model's role."""

from __future__ import annotations

import pytest

from services.naming import served_as, shown


@pytest.mark.parametrize(
    ("model", "in_lists", "by_default"),
    [
        ("/models/demo/target", "demo-target", "demo"),
        ("/models/qwen", "qwen", "qwen"),
        ("/models/qwen/", "qwen", "qwen"),
        ("/target", "target", "target"),
        ("Qwen/Qwen2.5-7B", "Qwen/Qwen2.5-7B", "Qwen2.5-7B"),
        ("somebody/draft-model", "somebody/draft-model", "draft-model"),
        ("somebody/target", "somebody/target", "target"),
    ],
)
def test_a_folder_goes_by_its_name_and_an_id_by_itself(model, in_lists, by_default):
    assert shown(model) == in_lists
    assert served_as(model) == by_default


def test_a_relative_folder_lends_the_name_of_the_one_around_it(tmp_path, monkeypatch):
    (tmp_path / "small" / "draft").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "small")
    assert (shown("draft"), served_as("draft")) == ("small-draft", "small")
