"""The public gRPC server: answers, Abort, clients that leave, health, reflection."""

import asyncio

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from adasd.errors import ContextTooLong, InvalidRequest, Overloaded, UnknownModel, WorkerLost
from adasd.requests import Grammar, GrammarKind, Mode, SamplingParams, SpeculationOptions, TextOptions
from adasd.results import Chunk, Complete, FinishReason
from adasd.text.tools import without_words
from protos.adasd.v1 import generation_pb2 as pb
from services.gateway.backend import Readiness
from services.gateway.grpc.door import start_grpc
from services.observability.service_events import RequestRefused
from services.transport import generation_codec as codec
from services.transport.generation import GenerationClient
from services.transport.generation_messages import (
    GENERATION_SERVICE,
    ChatMessage,
    GenerateCall,
    Loads,
    ReplicaLoad,
)
from tests.unit.gateway.fake_backend import FakeBackend, logprob_of

STATUS = health_pb2.HealthCheckResponse
LONG = "the cat sat on the mat and the dog ate the hat " * 4


@pytest.fixture
async def grpc_door():
    backend = FakeBackend()
    server = await start_grpc(backend, "127.0.0.1", 0, max_request_bytes=100_000)
    client = GenerationClient(server.address)
    yield backend, server, client
    await client.close()
    await server.stop()
    assert backend.tally.running == 0


async def test_what_a_call_leaves_out_the_model_says(grpc_door):
    backend, _, client = grpc_door
    backend.sampling_defaults = {"temperature": 0.5, "top_k": 9}
    await gathered(client, GenerateCall("the cat", left_unset=frozenset({"top_k"})))
    sampling = backend.tally.requests[-1].sampling
    assert (sampling.temperature, sampling.top_k) == (1.0, 9)


async def gathered(client, call):
    return [event async for event in client.generate(call)]


@pytest.mark.parametrize(
    "content",
    [
        "the cat sat on the mat",
        (ChatMessage("user", "the cat sat on the mat"),),
        (263, 265, 270, 264, 20, 30),
    ],
    ids=["text", "chat", "ids"],
)
async def test_an_answer_is_chunks_and_then_complete(grpc_door, content):
    backend, _, client = grpc_door
    *chunks, end = await gathered(client, GenerateCall(content, sampling=SamplingParams(max_tokens=9)))
    assert all(isinstance(chunk, Chunk) for chunk in chunks)
    assert isinstance(end, Complete)
    assert len(chunks[0].tokens) == 1
    assert chunks[-1].finish_reason is end.finish_reason is FinishReason.LENGTH
    assert sum(len(chunk.tokens) for chunk in chunks) == end.usage.completion_tokens
    assert backend.tally.requests[0].sampling.max_tokens == 9


async def test_options_about_texts_are_those_of_http(grpc_door):
    backend, _, client = grpc_door
    texts = TextOptions(bad_words=("bad", "a/b (c)"), prediction="the cat sat on")
    await gathered(client, GenerateCall("the cat sat on the mat", texts=texts))
    request = backend.tally.requests[-1]
    assert request.sampling.grammar == without_words(texts.bad_words)
    assert backend.tokenizer.decode(request.prediction) == "the cat sat on"
    assert request.speculation.draft == "suffix"
    begun = ChatMessage("user", "the cat"), ChatMessage("assistant", "the dog")
    await gathered(client, GenerateCall(begun, texts=TextOptions(continue_final_message=True)))
    prompt = backend.tokenizer.decode(backend.tally.requests[-1].prompt, skip_special_tokens=False)
    assert prompt == "<|user|>the cat<|end|><|assistant|>the dog"


@pytest.mark.parametrize(
    ("call", "param"),
    [
        (GenerateCall("x", texts=TextOptions(bad_words=("",))), "bad_words.0"),
        (GenerateCall("x", texts=TextOptions(bad_words=("a",) * 129)), "bad_words"),
        (
            GenerateCall(
                "x",
                sampling=SamplingParams(grammar=Grammar(GrammarKind.REGEX, "a")),
                texts=TextOptions(bad_words=("b",)),
            ),
            "bad_words",
        ),
        (
            GenerateCall("x", sampling=SamplingParams(min_tokens=2), texts=TextOptions(bad_words=("b",))),
            "min_tokens",
        ),
        (
            GenerateCall(
                "x", speculation=SpeculationOptions(draft="model"), texts=TextOptions(prediction="the cat")
            ),
            "prediction",
        ),
        (GenerateCall("x", texts=TextOptions(continue_final_message=True)), "continue_final_message"),
        (
            GenerateCall((ChatMessage("user", "x"),), texts=TextOptions(continue_final_message=True)),
            "continue_final_message",
        ),
    ],
    ids=range(7),
)
async def test_options_about_texts_that_contradict_themselves_are_refused(grpc_door, call, param):
    _, _, client = grpc_door
    with pytest.raises(InvalidRequest) as refused:
        await gathered(client, call)
    assert refused.value.param == param


async def test_the_models_length_holds_where_a_call_sets_none(grpc_door):
    backend, _, client = grpc_door
    backend.sampling_defaults = {"max_tokens": 3}
    for asked, most in ((SamplingParams(), 3), (SamplingParams(max_tokens=7), 7)):
        await gathered(client, GenerateCall("the cat", sampling=asked))
        assert backend.tally.requests[-1].sampling.max_tokens == most


async def test_options_are_honoured_and_echoed(grpc_door):
    backend, _, client = grpc_door
    call = GenerateCall(
        "the cat",
        sampling=SamplingParams(temperature=0.0, stop=("zzz",), logit_bias=((5, 1.5),), seed=7),
        speculation=SpeculationOptions(Mode.ADAPTIVE, max_draft_tokens=3),
        timeout_s=4.0,
    )
    end = (await gathered(client, call))[-1]
    request = backend.tally.requests[0]
    assert (request.sampling.temperature, request.sampling.seed, request.timeout_s) == (0.0, 7, 4.0)
    assert (request.sampling.stop, request.sampling.logit_bias) == (("zzz",), ((5, 1.5),))
    effective = end.speculation.effective
    assert (effective.mode, effective.max_draft_tokens) == (Mode.ADAPTIVE, 3)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (GenerateCall("x", model="other"), UnknownModel),
        (GenerateCall("q" * 300), ContextTooLong),
        (GenerateCall("x", sampling=SamplingParams(temperature=float("nan"))), InvalidRequest),
        (GenerateCall("x", sampling=SamplingParams(max_tokens=3, min_tokens=4)), InvalidRequest),
        (GenerateCall("x", sampling=SamplingParams(stop=("y",) * 17)), InvalidRequest),
        (GenerateCall("x", speculation=SpeculationOptions(drafting="nonsense")), InvalidRequest),
        (GenerateCall("x", sampling=SamplingParams(logprobs=21)), InvalidRequest),
        (
            GenerateCall("x", sampling=SamplingParams(grammar=Grammar(GrammarKind.REGEX, "("))),
            InvalidRequest,
        ),
        (GenerateCall("x", sampling=SamplingParams(presence_penalty=3.0)), InvalidRequest),
        (GenerateCall("x", timeout_s=-1.0), InvalidRequest),
        (GenerateCall((10**9,)), InvalidRequest),
        (GenerateCall((ChatMessage("robot", "x"),)), InvalidRequest),
        (GenerateCall("x", request_id="r" * 300), InvalidRequest),
        (GenerateCall("x", request_id="a\nb"), InvalidRequest),
        (GenerateCall("overload"), Overloaded),
        (GenerateCall("break the cat sat on the mat and the dog"), WorkerLost),
    ],
    ids=range(16),
)
async def test_errors_arrive_as_what_they_are(grpc_door, call, error):
    _, _, client = grpc_door
    with pytest.raises(error):
        await gathered(client, call)


@pytest.mark.parametrize("content", ["the cat", (ChatMessage("user", "the cat"),)], ids=["text", "chat"])
async def test_what_shapes_the_answer_reaches_the_backend_and_logprobs_come_back(grpc_door, content):
    backend, _, client = grpc_door
    grammar = Grammar(GrammarKind.REGEX, "a+")
    asked = SamplingParams(
        max_tokens=4, presence_penalty=0.5, frequency_penalty=-1.0, repetition_penalty=1.5, logprobs=2,
        prompt_logprobs=0, grammar=grammar,
    )  # fmt: skip
    chunks = (await gathered(client, GenerateCall(content, sampling=asked)))[:-1]
    sampling = backend.tally.requests[0].sampling
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.5, -1.0)
    assert (sampling.repetition_penalty, sampling.grammar) == (1.5, grammar)
    tokens = [token for chunk in chunks for token in chunk.tokens]
    assert [token.logprob for token in tokens] == [logprob_of(token.id, 2) for token in tokens]
    prompt = backend.tally.requests[0].prompt
    assert chunks[0].prompt_logprobs == tuple(logprob_of(i, 0) for i in prompt[1:])


async def test_an_abort_and_loads_reach_all_replicas(grpc_door):
    class Others:
        async def abort(self, request_ids):
            return tuple(name for name in request_ids if name == "there")

        async def loads(self):
            return Loads((ReplicaLoad("draft", "d", 8, 1, 0, 99),), 7, 2)

    backend, _, _ = grpc_door
    backend.step_s = 0.02
    server = await start_grpc(backend, "127.0.0.1", 0, max_request_bytes=100_000, peers=Others())
    client = GenerationClient(server.address)
    events = client.generate(GenerateCall(LONG, request_id="here"))
    await anext(events)
    assert await client.abort(["nowhere", "there", "here"]) == ("there", "here")
    assert [event async for event in events][-1].finish_reason is FinishReason.CANCELLED
    assert await client.loads() == Loads((ReplicaLoad("draft", "d", 8, 1, 0, 99),), 7, 2)
    await client.close()
    await server.stop()


@pytest.mark.parametrize(("sent", "named"), [("mine-1", True), ("no good!", False), (None, False)])
async def test_a_request_id_in_the_metadata_names_the_request(grpc_door, sent, named):
    backend, server, _ = grpc_door
    backend.step_s = 0.02
    metadata = (("x-request-id", sent),) if sent else ()
    async with grpc.aio.insecure_channel(server.address) as channel:
        call = channel.unary_stream(f"/{GENERATION_SERVICE}/Generate")(
            codec.call_to_wire(GenerateCall("the cat")).SerializeToString(), metadata=metadata
        )
        answered = dict(await call.initial_metadata())["x-request-id"]
        ids = {pb.GenerateResponse.FromString(data).request_id async for data in call}
    assert ids == {answered}
    assert (answered == sent) is named


@pytest.mark.parametrize("prompt", ["overload", "break the cat sat on the mat and the dog"])
async def test_an_error_that_passes_says_when_to_try_again(grpc_door, prompt):
    _, server, _ = grpc_door
    async with grpc.aio.insecure_channel(server.address) as channel:
        call = channel.unary_stream(f"/{GENERATION_SERVICE}/Generate")(
            codec.call_to_wire(GenerateCall(prompt)).SerializeToString()
        )
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            [data async for data in call]
    details = dict(failure.value.trailing_metadata())["grpc-status-details-bin"]
    info = error_details_pb2.RetryInfo()
    assert status_pb2.Status.FromString(details).details[0].Unpack(info)
    assert info.retry_delay.ToMilliseconds() == (2500 if prompt == "overload" else 1000)


async def test_a_full_server_refuses_a_call_before_it_reads_it():
    told, backend = [], FakeBackend()
    server = await start_grpc(backend, "127.0.0.1", 0, 100_000, tell=told.append)
    backend.is_full = True
    async with grpc.aio.insecure_channel(server.address) as channel:
        call = channel.unary_stream(f"/{GENERATION_SERVICE}/Generate")(b"no message at all")
        with pytest.raises(grpc.aio.AioRpcError, match="too many wait already") as refused:
            [data async for data in call]
    await server.stop()
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert told == [RequestRefused("grpc", "overloaded")]
    assert backend.tally.started == 0


async def test_abort_ends_the_stream_with_cancelled(grpc_door):
    backend, _, client = grpc_door
    backend.step_s = 0.02
    events = client.generate(GenerateCall(LONG, request_id="mine"))
    assert isinstance(await anext(events), Chunk)
    with pytest.raises(InvalidRequest, match="running already"):
        await gathered(client, GenerateCall("x", request_id="mine"))
    assert await client.abort(["other", "mine", "mine"]) == ("mine",)
    rest = [event async for event in events]
    assert rest[-1].finish_reason is FinishReason.CANCELLED
    assert await client.abort(["mine"]) == ()


async def test_leaving_the_call_closes_the_answer(grpc_door):
    backend, _, client = grpc_door
    backend.step_s = 0.02
    events = client.generate(GenerateCall(LONG))
    await anext(events)
    backend.step_s = 3600.0  # it would not end by itself
    await events.aclose()
    async with asyncio.timeout(20):
        await backend.idle.wait()


async def test_what_is_served_is_told(grpc_door):
    backend, _, client = grpc_door
    backend.state = Readiness(True, degraded=True, reasons=("no draft",))
    info = await client.model_info()
    assert (info.model, info.target, info.draft, info.max_context) == ("fake-model", "target", "draft", 256)
    assert info.defaults.mode is Mode.EXACT
    assert "adasd" in info.drafting
    assert "adasd-v1" in info.acceptance
    with pytest.raises(UnknownModel):
        await client.model_info("other")
    state = await client.server_info()
    assert (state.ready, state.degraded, state.reasons) == (True, True, ("no draft",))
    assert (await client.loads()).num_running == 0


async def test_health_follows_readiness_and_says_not_serving_before_the_stop(grpc_door):
    backend, server, _ = grpc_door
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        assert (await stub.Check(health_pb2.HealthCheckRequest())).status == STATUS.SERVING
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=GENERATION_SERVICE))
        assert (await watch.read()).status == STATUS.SERVING
        backend.state = Readiness(False, reasons=("the target was lost",))
        assert (await asyncio.wait_for(watch.read(), 20)).status == STATUS.NOT_SERVING
        backend.state = Readiness(True)
        assert (await asyncio.wait_for(watch.read(), 20)).status == STATUS.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await stub.Check(health_pb2.HealthCheckRequest(service="nothing"))
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
        stopping = asyncio.create_task(server.stop(grace_s=1.0))
        assert (await asyncio.wait_for(watch.read(), 20)).status == STATUS.NOT_SERVING
        watch.cancel()
        await stopping


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_knows_the_service_and_its_messages(grpc_door, version):
    _, server, _ = grpc_door
    async with grpc.aio.insecure_channel(server.address) as channel:
        method = channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            reflection_pb2.ServerReflectionRequest.SerializeToString,
            reflection_pb2.ServerReflectionResponse.FromString,
        )
        asks = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol=GENERATION_SERVICE),
        ]
        listed, described = [answer async for answer in method(iter(asks))]
    assert GENERATION_SERVICE in {s.name for s in listed.list_services_response.service}
    assert b"GenerateRequest" in described.file_descriptor_response.file_descriptor_proto[0]


@pytest.mark.parametrize(
    "method",
    [
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/adasd.v1.Generation/GetServerInfo",
    ],
)
async def test_bytes_that_are_no_message_are_invalid_argument(grpc_door, method):
    _, server, _ = grpc_door
    async with grpc.aio.insecure_channel(server.address) as channel:
        if method.endswith("Info") and "reflection" in method:
            call = channel.stream_stream(method)(iter([b"\xff\xff"]))
        elif method.endswith("Watch"):
            call = channel.unary_stream(method)(b"\xff\xff")
        else:
            call = channel.unary_unary(method)(b"\xff\xff")
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "2 bytes are no" in await call.details()


async def test_a_door_that_closes_waits_for_answers_and_for_no_watcher_of_its_health(grpc_door):
    backend, server, client = grpc_door
    backend.step_s = 0.05
    async with grpc.aio.insecure_channel(server.address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(service=GENERATION_SERVICE)
        )
        assert (await watch.read()).status == STATUS.SERVING
        events = client.generate(GenerateCall(LONG))
        await anext(events)
        async with asyncio.timeout(20.0):
            stopping = asyncio.create_task(server.stop(grace_s=600.0))
            assert isinstance([event async for event in events][-1], Complete)
            await stopping
        assert (await watch.read()).status == STATUS.NOT_SERVING
        assert await watch.read() is grpc.aio.EOF
        assert await watch.code() is grpc.StatusCode.OK
