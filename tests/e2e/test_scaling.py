"""Drafts that nobody needs go, the service goes on without, and they come back for whoever needs them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.server import ask, running, token_ids, wait_for

pytestmark = pytest.mark.cluster


@pytest.mark.timeout(300)
def test_idle_drafts_scale_to_zero_and_wake_up_again(pair: tuple[Path, Path]):
    models = ["--target", str(pair[0]), "--draft", str(pair[1]), "--speculation-bypass", "false"]
    drafts = ["--draft-min-replicas", "0", "--draft-down-after-s", "3"]
    with running(*models, *drafts) as server, server.client() as client:
        drafted = token_ids(ask(client))
        wait_for(lambda: not server.replicas("draft"), 60.0)
        assert client.get("/ready").status_code == 200
        assert token_ids(ask(client)) == drafted

        def is_drafted() -> bool:
            answer = ask(client, max_tokens=400, ignore_eos=True)
            return bool((answer["metrics"]["speculative_decoding"] or {}).get("num_draft_tokens"))

        wait_for(is_drafted, 90.0)
        assert server.replicas("draft")
