"""Against a fake server with the gateway's stream format."""

import json
from itertools import count

import httpx
import pytest

from adasd.requests import Mode
from cluster.http_client import ServerRefusal
from load_tests.demo_prompts import examples
from load_tests.interleaving import Turn
from load_tests.throughput import service_stream
from load_tests.throughput.service_stream import over_off, result, spread_ms
from load_tests.throughput.streamed import Streamed, read, stream


def chunk(text):
    return {"choices": [{"index": 0, "delta": {"content": text}}]}


def last(num_tokens, drafting=None):
    return {
        "choices": [],
        "usage": {"completion_tokens": num_tokens},
        "metrics": {"speculative_decoding": drafting, "adasd": {}},
    }


class Server(httpx.MockTransport):
    """Two chunks and a report; in mode ``changed`` the text differs."""

    def __init__(self, changed=None, status=200):
        self.asked, self.changed, self.status = [], changed, status
        super().__init__(self.handle)

    def handle(self, request):
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": [{"id": "pair"}]})
        body = json.loads(request.content)
        mode = body["speculation"]["mode"]
        self.asked.append(body)
        if self.status != 200:
            return httpx.Response(self.status, json={"error": {"message": "no slot is free"}})
        drafting = {"num_draft_tokens": 4, "num_accepted_draft_tokens": 3} if mode != "off" else None
        events = [chunk("a"), chunk("x" if mode == self.changed else "b"), last(5, drafting)]
        lines = [f"data: {json.dumps(event)}\n\n" for event in events]
        return httpx.Response(200, text="".join(lines) + "data: [DONE]\n\n")


def test_times_are_read_off_the_clock_at_every_chunk():
    ticks = iter([10.5, 10.7, 11.0, 11.25])
    streamed = read([chunk("Hel"), chunk(""), chunk("lo"), last(7)], 10.0, lambda: next(ticks))
    assert streamed.text == "Hello"
    assert streamed.num_tokens == 7
    assert streamed.first_token_s == pytest.approx(0.5)
    assert streamed.gaps_s == pytest.approx((0.2, 0.3))
    assert streamed.seconds == pytest.approx(1.25)


def test_an_error_or_an_end_too_soon_is_no_answer():
    with pytest.raises(ServerRefusal, match="the target worker was lost"):
        read([chunk("a"), {"error": {"message": "the target worker was lost"}}], 0.0, lambda: 0.0)
    with pytest.raises(ServerRefusal, match="no usage"):
        read([chunk("a")], 0.0, lambda: 0.0)


def test_the_figures_of_a_mode():
    chosen = examples(1)
    answer = Streamed("text", 6, 2.0, 0.1, (0.2, 0.4), 4, 3)
    measured = {
        Turn(0, 0, "off"): Streamed("text", 6, 4.0, 0.1, (), 0, 0),
        Turn(1, 0, "off"): Streamed("text", 6, 4.0, 0.1, (), 0, 0),
        Turn(0, 0, "exact"): answer,
        Turn(1, 0, "exact"): Streamed("other", 6, 1.0, 0.3, (0.2, 0.4), 4, 2),
    }
    seconds = {(0, "off"): 4.0, (1, "off"): 4.0, (0, "exact"): 2.0, (1, "exact"): 1.0}
    off, found = (result(mode, measured, seconds, chosen) for mode in (Mode.OFF, Mode.EXACT))
    assert over_off(found, [off, found]) == 3.0
    assert found.tokens_per_s == [3.0, 6.0]
    assert found.median_tokens_per_s == 4.5
    assert found.first_token_ms == {"median": 200.0, "p90": 300.0}
    assert found.tokens_per_chunk == 2.0
    assert found.accepted_share == 5 / 8
    assert found.num_differing == 1
    assert off.accepted_share is None


def test_quantiles_of_few_and_of_none():
    assert spread_ms([]) == {"median": 0.0, "p90": 0.0}
    assert spread_ms([0.001 * n for n in range(1, 11)]) == {"median": 5.5, "p90": 10.0}


def test_every_mode_takes_its_turn_and_the_figures_are_written(tmp_path, capsys):
    server, file = Server(), tmp_path / "figures.json"
    assert service_stream.main(["--prompts", "2", "--repeats", "1", "--json", str(file)], server) == 0
    modes = [body["speculation"]["mode"] for body in server.asked]
    assert modes == ["off", "exact", "adaptive", "off", "exact", "adaptive", "exact", "adaptive", "off"]
    assert all(body["temperature"] == 0 and body["stream"] for body in server.asked)
    report = json.loads(file.read_text())
    assert report["model"] == "pair"
    assert [one["mode"] for one in report["results"]] == list(Mode)
    assert [one["accepted_share"] for one in report["results"]] == [None, 0.75, 0.75]
    assert "tokens/chunk" in capsys.readouterr().out


def test_with_several_streams_each_mode_gets_all_prompts_at_once(tmp_path):
    server, file = Server(), tmp_path / "figures.json"
    command = ["--prompts", "4", "--repeats", "2", "--streams", "3", "--json", str(file)]
    assert service_stream.main(command, server) == 0
    modes = [body["speculation"]["mode"] for body in server.asked[3:]]
    bursts = ["off", "exact", "adaptive", "exact", "adaptive", "off"]
    assert modes == [mode for mode in bursts for _ in range(4)]
    report = json.loads(file.read_text())
    assert report["num_streams"] == 3
    assert all(len(one["tokens_per_s"]) == 2 and one["over_off"] > 0 for one in report["results"])


@pytest.mark.parametrize(("changed", "status"), [("exact", 1), ("adaptive", 0)])
def test_only_mode_exact_must_not_change_answers(changed, status):
    assert service_stream.main(["--prompts", "1", "--repeats", "1"], Server(changed)) == status


def test_a_server_that_refuses_is_quoted(capsys):
    assert service_stream.main(["--prompts", "1"], Server(status=429)) == 1
    assert "no slot is free" in capsys.readouterr().out


def test_an_answer_is_timed_from_sending_the_request():
    ticks = count()
    with httpx.Client(base_url="http://server", transport=Server()) as client:
        streamed = stream(client, "pair", "hi", Mode.EXACT, 8, lambda: float(next(ticks)))
    assert (streamed.first_token_s, streamed.seconds, streamed.num_accepted) == (1.0, 3.0, 3)
