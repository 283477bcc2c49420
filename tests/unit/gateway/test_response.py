"""Responses that are not streamed, and the routes around them."""

import asyncio
import re
from importlib.resources import files

import pytest

from adasd.requests import Mode, SpeculationOptions
from adasd.results import SpeculationReport, TokenKind
from services.gateway.backend import Readiness
from services.gateway.http.reports import metrics_json


async def test_a_chat_answer_has_text_usage_effective_speculation_and_metrics(door):
    response = await door.chat(
        "the cat sat on the mat", speculation={"mode": "adaptive", "max_draft_tokens": 5}
    )
    body = response.json()
    assert response.status_code == 200
    assert body["object"] == "chat.completion"
    assert body["model"] == "fake-model"
    assert body["choices"][0]["message"]["role"] == "assistant"
    assert "the cat sat on the mat" in body["choices"][0]["message"]["content"]
    assert body["choices"][0]["finish_reason"] == "length"
    usage = body["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["prompt_tokens_details"] == {"cached_tokens": 2}
    assert body["speculation"] == {
        "mode": "adaptive",
        "draft": "model",
        "drafting": "adasd",
        "acceptance": "adasd:min_ratio=0.25",
        "max_draft_tokens": 5,
        "max_relaxed_fraction": 0.3,
        "max_distortion": None,
    }
    assert sum(body["metrics"]["adasd"]["tokens"].values()) == usage["completion_tokens"]
    assert body["metrics"]["adasd"]["generation_threshold"] is None  # infinity is no JSON
    assert body["metrics"]["adasd"]["acceptance_threshold"] == 0.25
    assert body["id"] == "chatcmpl-" + response.headers["x-request-id"]


async def test_sampling_parameters_reach_the_backend_and_defaults_are_filled_in(door):
    await door.chat(
        max_completion_tokens=7, max_tokens=9, temperature=1e-9, top_k=-1, stop="x", seed=-3, ignore_eos=True,
        logit_bias={"5": -100}, stop_token_ids=[3], min_tokens=2, min_p=0.1,
        presence_penalty=-1.5, frequency_penalty=2, repetition_penalty=1.2,
    )  # fmt: skip
    await door.post("/v1/completions", {"prompt": [20] * 6})
    first, second = (r.sampling for r in door.backend.tally.requests)
    assert (first.max_tokens, first.temperature, first.top_k, first.stop) == (7, 0.0, 0, ("x",))
    assert (first.seed, first.ignore_eos, first.min_tokens, first.stop_token_ids) == (-3, True, 2, (3,))
    assert first.logit_bias == ((5, -100.0),)
    assert (first.presence_penalty, first.frequency_penalty, first.repetition_penalty) == (-1.5, 2.0, 1.2)
    assert (first.min_p, second.repetition_penalty, second.logprobs) == (0.1, 1.0, None)
    assert (second.max_tokens, second.temperature, second.top_p) == (250, 1.0, 1.0)


async def test_stop_ends_the_text_before_it(door):
    body = (
        await door.post("/v1/completions", {"prompt": "the cat sat on the mat", "stop": ["zzz", "sat"]})
    ).json()
    assert body["object"] == "text_completion"
    assert body["choices"][0]["text"] == "the cat "
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["choices"][0]["stop_reason"] == "sat"


async def test_several_prompts_come_back_as_choices_in_their_order(door):
    prompts = ["the cat", "sat on", "the mat and the dog"]
    body = (await door.post("/v1/completions", {"prompt": prompts})).json()
    assert [c["text"] for c in body["choices"]] == prompts
    assert [c["index"] for c in body["choices"]] == [0, 1, 2]
    assert body["metrics"] is None
    assert body["usage"]["completion_tokens"] == sum(len(r.prompt) for r in door.backend.tally.requests)


async def test_prompts_that_are_all_refused_have_a_status_and_hold_nothing(door):
    response = await door.post("/v1/completions", {"prompt": ["overload", "overload"]})
    assert response.status_code == 429
    await door.idle()


async def test_tokens_with_provenance_join_to_the_text(door):
    body = (
        await door.post("/v1/completions", {"prompt": "naïve 🙂 cat", "return_token_provenance": True})
    ).json()
    tokens = body["choices"][0]["adasd"]["tokens"]
    assert "".join(t["text"] for t in tokens) == body["choices"][0]["text"] == "naïve 🙂 cat"
    assert len(tokens) == body["usage"]["completion_tokens"]


async def test_many_answers_at_once_do_not_mix(door):
    door.backend.step_s = 0.001
    texts = [f"the cat {i} sat on {i}" for i in range(20)]
    bodies = await asyncio.gather(*(door.post("/v1/completions", {"prompt": text}) for text in texts))
    assert [b.json()["choices"][0]["text"] for b in bodies] == texts


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (Readiness(True), 200),
        (Readiness(True, degraded=True, reasons=("the draft was lost",)), 200),
        (Readiness(False, reasons=("the target loads",)), 503),
    ],
)
async def test_ready_says_whether_and_why_not(door, state, status):
    door.backend.state = state
    response = await door.client.get("/ready")
    assert response.status_code == status
    assert response.json() == {
        "ready": state.ready,
        "degraded": state.degraded,
        "reasons": list(state.reasons),
    }
    assert (await door.client.get("/health")).status_code == 200


async def test_models_are_listed_and_found_by_name(door):
    listed = (await door.client.get("/v1/models")).json()
    assert [m["id"] for m in listed["data"]] == ["fake-model"]
    assert listed["data"][0]["adasd"]["verdict_backend"] is None, "no target has answered yet"
    assert (await door.client.get("/v1/models/fake-model")).json() == listed["data"][0]


PAGE = files("services.gateway") / "playground"
SCRIPTS = sorted(file.name for file in PAGE.iterdir() if file.name.endswith((".js", ".css", ".svg", ".html")))


async def test_the_playground_runs_nothing_but_its_own_files(door):
    page = await door.client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    policy = dict(rule.split(" ", 1) for rule in page.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["trusted-types"] == "'none'"
    assert all(f'class="{kind}"' in page.text for kind in TokenKind)
    assert not re.search(r"<style|<script>|style=| on[a-z]+=", page.text)


@pytest.mark.parametrize("name", SCRIPTS)
async def test_every_file_of_the_playground_is_served_and_loads_nothing_from_elsewhere(door, name):
    found = await door.client.get(f"/playground/{name}")
    assert found.status_code == 200
    kinds = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml", "html": "text/html"}
    assert found.headers["cache-control"] == "no-cache"
    assert found.headers["content-type"].startswith(kinds[name.partition(".")[2]])
    loaded = re.findall(r"""(?:from|import|url\(|src=|href=)\s*["']([^"']+)""", found.text)
    assert [address for address in loaded if "//" in address] == []
    assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|eval\(", found.text)


@pytest.mark.parametrize(
    "path", ["/playground/../routes.py", "/playground/%2e%2e/backend.py", "/playground/", "/playground"]
)
async def test_nothing_else_is_served_beside_them(door, path):
    assert (await door.client.get(path)).status_code == 404


async def test_the_openapi_document_describes_the_bodies(door):
    document = (await door.client.get("/openapi.json")).json()
    body = document["paths"]["/v1/chat/completions"]["post"]["requestBody"]
    name = body["content"]["application/json"]["schema"]["$ref"].removeprefix("#/components/schemas/")
    schemas = document["components"]["schemas"]
    assert "speculation" in schemas[name]["properties"]
    assert schemas["Speculation"]["additionalProperties"] is False


def test_metrics_add_up_as_benchmark_clients_check_it():
    report = SpeculationReport(
        effective=SpeculationOptions(Mode.EXACT, "adasd", None, 6, 0.0),
        num_rounds=6,
        num_draft_rounds=5,
        num_draft_tokens=14,
        num_accepted_tokens=7,
        accepted_per_round=(0, 3, 1, 3, 0),
        drafted_per_round=(2, 3, 4, 4, 1),
        kinds=((TokenKind.EXACT, 7), (TokenKind.CORRECTION, 4), (TokenKind.BONUS, 1), (TokenKind.TARGET, 2)),
        generation_threshold=1.25,
        acceptance_threshold=None,
        draft_ms=1.0,
        verify_ms=2.0,
        network_ms=3.0,
    )
    metrics = metrics_json(report)
    assert "drafted_per_round" not in metrics["adasd"]
    by_round = metrics_json(report, by_round=True)["adasd"]
    assert (by_round["drafted_per_round"], by_round["accepted_per_round"]) == (
        [2, 3, 4, 4, 1],
        [0, 3, 1, 3, 0],
    )
    spec = metrics["speculative_decoding"]
    assert spec["acceptance_histogram"] == [2, 1, 0, 2, 0, 0, 0]
    assert len(spec["acceptance_histogram"]) == spec["num_spec_tokens"] + 1
    assert sum(spec["acceptance_histogram"]) == spec["num_spec_steps"] == 5
    weighted = sum(j * steps for j, steps in enumerate(spec["acceptance_histogram"]))
    assert weighted == spec["num_accepted_draft_tokens"] == 7
    assert spec["num_draft_tokens"] == 14
    assert spec["acceptance_histogram_by_draft_length"] == {
        "1": [1, 0],
        "2": [1, 0, 0],
        "3": [0, 0, 0, 1],
        "4": [0, 1, 0, 1, 0],
    }
    assert spec["mean_acceptance_length"] == pytest.approx(2.4)
    assert spec["draft_acceptance_rate"] == pytest.approx(0.5)
    assert metrics["adasd"]["tokens"] == {"exact": 7, "relaxed": 0, "correction": 4, "bonus": 1, "target": 2}
