"""The HTTP server: all its routes. Knows no model and no cluster; answers come from a Backend."""

from __future__ import annotations

import time
import uuid
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response

from adasd.errors import AdasdError, Code, UnknownModel
from adasd.methods.policy import Described
from adasd.methods.registry import EXACT_TESTS, acceptance_methods, drafting_methods
from services.gateway.auth.key_ring import KeyRing
from services.gateway.backend import Backend, ServedModel
from services.gateway.http.connection import read_body, until_disconnect
from services.gateway.http.elsewhere import not_found
from services.gateway.http.error_table import FULL_HEADER, error_response, openai_error
from services.gateway.http.event_stream import EventStream, StreamWriter, pieces
from services.gateway.http.middleware import (
    REQUEST_ID_HEADER,
    KeyGuard,
    RequestIds,
    Tolerance,
    count_answers,
    path_of,
    request_id_of,
)
from services.gateway.http.multiplex import merged
from services.gateway.http.openai_format import ChatFormat, CompletionFormat
from services.gateway.http.openapi import body_doc, document
from services.gateway.http.order import Order, parse, read_chat, read_completion
from services.gateway.http.playground_routes import add_playground
from services.gateway.http.proxy_front import ALIVE, HEALTH, ProxyCounts
from services.gateway.http.response import Choices, ResponseShape, gather
from services.gateway.http.responses.body import RESPONSES_BODY
from services.gateway.http.responses.order import read_responses
from services.gateway.http.responses.shape import ResponsesShape
from services.gateway.http.schema import CHAT_BODY, COMPLETION_BODY, Body
from services.gateway.http.tokenize_routes import DetokenizeBody, TokenizeBody, detokenize, tokenize
from services.gateway.http.turns import answers_of
from services.gateway.readers import read_aside
from services.gateway.version import version
from services.observability.service_events import Observer, RequestRefused, ignore
from services.observability.snapshot import CONTENT_TYPE

BodyT = TypeVar("BodyT", bound=Body)
Scrape = Callable[[], Awaitable[bytes]]
Reader = Callable[[BodyT, Backend, str], Order]

IGNORED_HEADER = "X-Adasd-Ignored-Fields"


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """Settings of the HTTP server."""

    max_body_bytes: int = 4 * 1024 * 1024  # of one request
    cors_origins: tuple[str, ...] = ()  # web origins whose pages may call the API
    answer_request_ids: bool = True  # in a header; False if a proxy in front adds it (Serve's always does)


def create_app(
    backend: Backend,
    settings: GatewaySettings | None = None,
    scrape: Scrape | None = None,
    tell: Observer = ignore,
    keys: KeyRing | None = None,
) -> FastAPI:
    """The application; every error response has OpenAI's format.

    ``scrape`` produces the text of ``/metrics`` (404 if None), ``tell`` receives refusals as events; without ``keys``
    anyone may call.
    """
    limits = settings or GatewaySettings()
    app = FastAPI(title="AdaSD Serve", docs_url=None, redoc_url=None, redirect_slashes=False)
    document(app)
    add_playground(app)

    @app.exception_handler(AdasdError)
    async def refused(_: Request, error: AdasdError) -> JSONResponse:
        if error.code is not Code.CANCELLED:
            tell(RequestRefused("http", error.code.value))
        response = error_response(error)
        if error.code is Code.OVERLOADED:
            response.headers[FULL_HEADER] = "1"
        return response

    @app.exception_handler(HTTPException)
    async def refused_by_http(request: Request, error: HTTPException) -> JSONResponse:
        is_unknown = error.status_code == 404 and error.detail == "Not Found"
        message = not_found(path_of(request.scope)) if is_unknown else str(error.detail)
        problem = openai_error(message, "invalid_request_error", None, None)
        return JSONResponse(problem, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        tell(RequestRefused("http", Code.INTERNAL.value))
        response = error_response(error)  # sent outside of RequestIds
        if limits.answer_request_ids:
            response.headers[REQUEST_ID_HEADER] = request_id_of(request.scope)
        return response

    @app.get(HEALTH)
    async def health() -> dict[str, str]:
        """Alive."""
        return ALIVE

    @app.get("/ready")
    async def ready() -> JSONResponse:
        """200 if requests are served (``degraded``: without a draft, or with a full disk), else 503; with reasons."""
        state = backend.readiness()
        body = {"ready": state.ready, "degraded": state.degraded, "reasons": list(state.reasons)}
        return JSONResponse(body, 200 if state.ready else 503, {} if state.ready else {"Retry-After": "1"})

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        if scrape is None:
            raise HTTPException(404, "this server keeps no metrics")
        return Response(await scrape(), media_type=CONTENT_TYPE)

    @app.get("/version")
    async def show_version() -> dict[str, str]:
        return {"version": version()}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model_json(model) for model in backend.models()]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        for served in backend.models():
            if served.id == name:
                return _model_json(served)
        raise UnknownModel(name, backend.model_name)

    @app.post("/v1/chat/completions", openapi_extra=body_doc(CHAT_BODY))
    async def chat(request: Request) -> Response:
        return await _respond(request, backend, limits, CHAT_BODY, read_chat, Choices(ChatFormat()))

    @app.post("/v1/completions", openapi_extra=body_doc(COMPLETION_BODY))
    async def completions(request: Request) -> Response:
        shape = Choices(CompletionFormat())
        return await _respond(request, backend, limits, COMPLETION_BODY, read_completion, shape)

    @app.post("/v1/responses", openapi_extra=body_doc(RESPONSES_BODY))
    async def responses(request: Request) -> Response:
        return await _respond(request, backend, limits, RESPONSES_BODY, read_responses, ResponsesShape())

    @app.post("/tokenize", openapi_extra=body_doc(TokenizeBody))
    async def to_tokens(request: Request) -> dict[str, Any]:
        raw = await read_body(request, limits.max_body_bytes)
        return await read_aside(lambda: tokenize(parse(raw, TokenizeBody), backend))

    @app.post("/detokenize", openapi_extra=body_doc(DetokenizeBody))
    async def to_text(request: Request) -> dict[str, Any]:
        raw = await read_body(request, limits.max_body_bytes)
        return await read_aside(lambda: detokenize(parse(raw, DetokenizeBody), backend))

    # The last one added is the outermost.
    app.add_middleware(KeyGuard, keys=keys or KeyRing(), tell=tell)
    app.add_middleware(ProxyCounts, tell=tell)
    app.add_middleware(Tolerance)
    app.add_middleware(RequestIds, answer=limits.answer_request_ids)
    if limits.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=limits.cors_origins,
            allow_methods=["GET", "HEAD", "POST"],
            allow_headers=["*"],
            expose_headers=[REQUEST_ID_HEADER, IGNORED_HEADER, "Retry-After"],
        )
    return app


async def _respond(
    request: Request,
    backend: Backend,
    limits: GatewaySettings,
    kind: type[BodyT],
    read: Reader[BodyT],
    shape: ResponseShape,
) -> Response:
    if (refusal := backend.refusal()) is not None:  # before reading the body
        raise refusal
    raw = await read_body(request, limits.max_body_bytes)
    answer_id = f"{shape.id_prefix}{request_id_of(request.scope)}"
    session = f"{answer_id}.{uuid.uuid4().hex[:8]}"  # ids chosen by clients need not be unique
    # Parsing and tokenising megabytes here would block every running stream.
    order = await read_aside(lambda: read(parse(raw, kind), backend, session))
    await count_answers(request.scope, len(order.requests))
    head = {"id": answer_id, "created": int(time.time()), "model": order.model}
    headers = _ignored_header(order.ignored)
    if order.stream:
        return await _stream(request, backend, order, shape.writer(order, head, backend.tokenizer), headers)
    answers = await until_disconnect(request, gather(order, backend))
    return JSONResponse(shape.whole(order, head, answers, backend.tokenizer), headers=headers)


async def _stream(
    request: Request,
    backend: Backend,
    order: Order,
    writer: StreamWriter,
    headers: dict[str, str],
) -> Response:
    """Waits for the first event: until then, a refusal can still set the HTTP status."""
    events = merged(answers_of(order.requests, backend))
    try:
        first = await until_disconnect(request, anext(events))
    except BaseException:
        await events.aclose()
        raise
    written = pieces(first, events, writer)

    async def close() -> None:
        await written.aclose()
        await events.aclose()

    return EventStream(written, close, headers)


def _model_json(model: ServedModel) -> dict[str, Any]:
    return {
        "id": model.id,
        "object": "model",
        "created": model.created,
        "owned_by": "adasd-serve",
        "max_model_len": model.context_len,
        "adasd": {
            "target": model.target,
            "draft": model.draft or None,
            "examples": list(model.examples),
            "drafts": _methods_json(model.drafts),
            "drafting": _methods_json(drafting_methods()),
            "acceptance": _methods_json(acceptance_methods()),
            "exact": _methods_json(EXACT_TESTS),
            "sampling_defaults": dict(model.sampling_defaults),
            "verdict_backend": model.verdict_backend or None,
        },
    }


def _methods_json(methods: Iterable[Described]) -> list[dict[str, str]]:
    """The names that a request may use, each with one sentence and its publication."""
    return [{"name": one.name, "summary": one.summary, "source": one.source} for one in methods]


def _ignored_header(names: tuple[str, ...]) -> dict[str, str]:
    """Names come from the client; only characters that are safe in a header are repeated."""
    shown = [name for name in names[:32] if len(name) <= 64 and name.isascii() and name.isprintable()]
    return {IGNORED_HEADER: ", ".join(shown)} if shown else {}
