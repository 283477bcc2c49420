"""API keys over gRPC: the ``authorization`` metadata is checked before any handler sees a request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import grpc

from adasd.errors import AdasdError, RateLimited, Unauthenticated
from services.config import ApiKey
from services.gateway.auth.key_ring import KeyRing
from services.observability.service_events import Observer, RequestRefused
from services.transport.generation_messages import GENERATION_SERVICE
from services.transport.status import abort

LIMITED_METHOD = f"/{GENERATION_SERVICE}/Generate"
"""The one method that counts against a key's limits."""

Behaviour = Callable[[Any, grpc.aio.ServicerContext], Awaitable[None]]


class GuardedHandler(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """Wraps a handler; only callers with a known key, within its limits, get through."""

    def __init__(self, inner: grpc.GenericRpcHandler, keys: KeyRing, tell: Observer) -> None:
        self._inner, self._keys, self._tell = inner, keys, tell

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        handler = self._inner.service(handler_call_details)
        if handler is None:
            return None
        try:
            key = self._keys.identify(_authorization(handler_call_details))
        except Unauthenticated as error:
            return _replaced(handler, self._refusal(error))
        if handler_call_details.method == LIMITED_METHOD and key is not None:
            return _replaced(handler, self._limited(handler.unary_stream, key))
        return handler

    def _refusal(self, error: AdasdError) -> Behaviour:
        async def refuse(_: Any, context: grpc.aio.ServicerContext) -> None:
            self._tell(RequestRefused("grpc", error.code.value))
            await abort(context, error)

        return refuse

    def _limited(self, answer: Behaviour, key: ApiKey) -> Behaviour:
        async def limited(request: Any, context: grpc.aio.ServicerContext) -> None:
            async with AsyncExitStack() as stack:
                try:
                    await stack.enter_async_context(self._keys.use(key))
                except RateLimited as error:
                    await self._refusal(error)(request, context)
                await answer(request, context)

        return limited


def _authorization(details: grpc.HandlerCallDetails) -> str | None:
    for name, value in details.invocation_metadata or ():
        if name == "authorization":
            return value if isinstance(value, str) else None
    return None


def _replaced(handler: grpc.RpcMethodHandler, behaviour: Behaviour) -> grpc.RpcMethodHandler:
    """A handler of the same kind with another behaviour."""
    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[bool(handler.request_streaming), bool(handler.response_streaming)]
    return make(behaviour, handler.request_deserializer, handler.response_serializer)
