"""Converts errors of adasd.errors to the wire's Failed and back: class and fields are preserved.

No pickle: only classes of the error tree are built, from texts and numbers. An error that cannot be rebuilt
(a peer of another version) becomes the root AdasdError with the peer's message.
"""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.message import DecodeError

from adasd.errors import AdasdError
from protos.adasd.v1 import worker_pb2 as pb

MAX_TEXT_BYTES = 800  # of a field; errors also travel in HTTP/2 headers, in base64, which hold 8 KiB in all
MAX_MESSAGE_BYTES = 500  # of the message, which only peers that do not know the class read


def error_classes() -> dict[str, type[AdasdError]]:
    """Every class of the error tree by name."""
    return {cls.__name__: cls for cls in _tree(AdasdError)}


def _tree(root: type[AdasdError]) -> Iterator[type[AdasdError]]:
    yield root
    for child in root.__subclasses__():
        if child.__module__ == AdasdError.__module__:
            yield from _tree(child)


_CLASSES = error_classes()


def failed_from_error(error: AdasdError) -> pb.Failed:
    """The wire format of an error; long texts are cut."""
    return pb.Failed(
        code=error.code.value,
        type=type(error).__name__,
        message=cut(str(error), MAX_MESSAGE_BYTES),
        fields=[_field_to_wire(value) for value in error.args],
    )


def error_from_failed(failed: pb.Failed) -> AdasdError:
    """The error as the peer raised it."""
    cls = _CLASSES.get(failed.type)
    if cls is None:
        return AdasdError(failed.message)
    try:
        return cls(*(_field_from_wire(field) for field in failed.fields))
    except TypeError:  # the peer's class has other arguments
        return AdasdError(failed.message)


def error_to_bytes(error: AdasdError) -> bytes:
    """An error as the value of the trailing metadata that accompanies a gRPC status."""
    data: bytes = failed_from_error(error).SerializeToString()
    return data


def error_from_bytes(data: bytes) -> AdasdError | None:
    """The inverse of error_to_bytes; None if the bytes contain no error."""
    try:
        return error_from_failed(pb.Failed.FromString(data))
    except DecodeError:
        return None


def cut(text: str, num_bytes: int) -> str:
    """As much of the text as takes so many bytes in UTF-8."""
    return text.encode(errors="replace")[:num_bytes].decode(errors="ignore")


def _field_to_wire(value: object) -> pb.ErrorField:
    match value:
        case None:
            return pb.ErrorField()
        case int() if -(2**63) <= value < 2**63:
            return pb.ErrorField(number=int(value))
        case float():
            return pb.ErrorField(real=value)
        case _:
            return pb.ErrorField(text=cut(str(value), MAX_TEXT_BYTES))


def _field_from_wire(field: pb.ErrorField) -> str | int | float | None:
    match field.WhichOneof("value"):
        case "text":
            return field.text
        case "number":
            return field.number
        case "real":
            return field.real
        case _:
            return None
