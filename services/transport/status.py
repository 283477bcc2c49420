"""The table from error codes (adasd.errors.Code) to gRPC statuses, and back for peers that send only a status."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NoReturn

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from adasd.errors import (
    AdasdError,
    Cancelled,
    Code,
    InvalidRequest,
    Overloaded,
    WorkerLost,
    told,
)
from services.transport.error_codec import cut, error_from_bytes, error_to_bytes

ERROR_KEY = "adasd-error-bin"
"""Trailing metadata key of the encoded error, next to the status."""

STATUS_DETAILS_KEY = "grpc-status-details-bin"
"""Metadata key of google.rpc.Status in gRPC's richer error model."""

RETRY_STATUSES = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)
"""The same request can succeed later: these statuses carry the time to wait."""
RETRY_AFTER_LOSS_S = 1.0

MAX_DETAILS_BYTES = 1000  # of the status message, whose bytes beyond ASCII take three in the headers

STATUS: dict[Code, grpc.StatusCode] = {
    Code.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Code.CONTEXT_TOO_LONG: grpc.StatusCode.INVALID_ARGUMENT,
    Code.UNKNOWN_MODEL: grpc.StatusCode.NOT_FOUND,
    Code.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Code.CONFIG: grpc.StatusCode.FAILED_PRECONDITION,
    Code.OVERLOADED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Code.RATE_LIMITED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Code.DEADLINE: grpc.StatusCode.DEADLINE_EXCEEDED,
    Code.CANCELLED: grpc.StatusCode.CANCELLED,
    Code.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Code.WORKER_LOST: grpc.StatusCode.UNAVAILABLE,
    Code.STALE_INCARNATION: grpc.StatusCode.FAILED_PRECONDITION,
    Code.UNKNOWN_SESSION: grpc.StatusCode.NOT_FOUND,
    Code.STALE_CACHE: grpc.StatusCode.ABORTED,
    Code.SUPERSEDED: grpc.StatusCode.ABORTED,
    Code.DEVICE: grpc.StatusCode.INTERNAL,
    Code.INTERNAL: grpc.StatusCode.INTERNAL,
}


async def abort(context: grpc.aio.ServicerContext, error: AdasdError) -> NoReturn:
    """End the call with the error's status and what to do; the error itself goes along in the trailing metadata."""
    details = cut(told(error), MAX_DETAILS_BYTES)
    trailing: tuple[tuple[str, bytes], ...] = ((ERROR_KEY, error_to_bytes(error)),)
    if STATUS[error.code] in RETRY_STATUSES:
        trailing = (*trailing, (STATUS_DETAILS_KEY, _retry_info(error, details)))
    await context.abort(STATUS[error.code], details, trailing_metadata=trailing)
    raise AssertionError("abort raises")


def _retry_info(error: AdasdError, details: str) -> bytes:
    """google.rpc.Status with RetryInfo, which gRPC clients of any language understand."""
    delay = duration_pb2.Duration()
    wait_s = error.retry_after_s if isinstance(error, Overloaded) else RETRY_AFTER_LOSS_S
    delay.FromNanoseconds(round(1e9 * max(0.0, wait_s)))
    packed = any_pb2.Any()
    packed.Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=STATUS[error.code].value[0], message=details, details=[packed])
    data: bytes = status.SerializeToString()
    return data


def error_from_rpc(error: grpc.aio.AioRpcError, role: str) -> AdasdError:
    """The error that a failed call means to the caller; ``role`` names the peer in WorkerLost.

    Our own peers send the error as metadata. Otherwise the status decides: anything that is not clearly the request's
    fault counts as the loss of the peer.
    """
    told = _error_in(error.trailing_metadata() or ())
    if told is not None:
        return told
    status, details = error.code(), error.details() or "no details"
    match status:
        case grpc.StatusCode.INVALID_ARGUMENT | grpc.StatusCode.OUT_OF_RANGE:
            return InvalidRequest(details)
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return Overloaded(details)
        case grpc.StatusCode.CANCELLED:
            return Cancelled(details)
        case _:
            return WorkerLost(role, f"{status.name}: {details}")


def _error_in(metadata: Iterable[tuple[str, str | bytes]]) -> AdasdError | None:
    for key, value in metadata:
        if key == ERROR_KEY and isinstance(value, bytes):
            return error_from_bytes(value)
    return None
