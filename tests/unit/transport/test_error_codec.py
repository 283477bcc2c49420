"""Every error arrives as the class that was raised, with its fields, and has a gRPC status."""

from __future__ import annotations

import grpc
import pytest

from adasd import errors
from adasd.errors import AdasdError, Code, ContextTooLong, InvalidRequest, UnknownModel, WorkerLost, told
from protos.adasd.v1 import worker_pb2 as pb
from services.transport.error_codec import (
    cut,
    error_classes,
    error_from_bytes,
    error_from_failed,
    error_to_bytes,
)
from services.transport.status import ERROR_KEY, MAX_DETAILS_BYTES, STATUS, error_from_rpc

EXAMPLES = [
    AdasdError("something"),
    errors.InvalidRequest("temperature is -1", "temperature"),
    errors.InvalidRequest("no param"),
    errors.ContextTooLong(5000, 100, 4096),
    errors.UnknownModel("gpt-9", "adasd-demo"),
    errors.ConfigError("a bad file"),
    errors.Overloaded("all 4 slots are taken", 2.5),
    errors.DeadlineExceeded("the request", 600.0),
    errors.Cancelled("the caller left"),
    errors.WorkerLost("draft", "no answer in 2 s"),
    errors.StaleIncarnation("aa"),
    errors.UnknownSession("s1"),
    errors.StaleCache("s1", 12, 9),
    errors.Superseded("s1", 4),
    errors.Unauthenticated("no key"),
    errors.RateLimited("3 requests a minute", 2.5),
    errors.DeviceFailure("out of memory"),
    errors.RankLost("a rank has ended by itself"),
    errors.IllegalEvent("DraftBlock while VERIFYING"),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_survives_with_its_fields(error):
    arrived = error_from_bytes(error_to_bytes(error))
    assert type(arrived) is type(error)
    assert vars(arrived) == vars(error)
    assert str(arrived) == str(error)


def test_every_class_of_the_tree_has_an_example():
    assert {type(error).__name__ for error in EXAMPLES} == error_classes().keys()


def test_every_code_has_a_status():
    assert STATUS.keys() == set(Code)


def test_an_error_of_another_version_arrives_as_the_root_with_its_sentence():
    for failed in (
        pb.Failed(type="Exploded", message="boom"),
        pb.Failed(type="StaleCache", message="boom", fields=[pb.ErrorField(text="only one")]),
        pb.Failed(type="__import__", message="boom"),
    ):
        arrived = error_from_failed(failed)
        assert type(arrived) is AdasdError
        assert str(arrived) == "boom"


@pytest.mark.parametrize("letter", ["x", "\u6a21", "\U0001f600"])
@pytest.mark.parametrize("make", [InvalidRequest, lambda text: UnknownModel(text, text)])
def test_a_long_text_is_cut_so_that_it_fits_into_headers(letter, make):
    """8 KiB in all: the status message with three bytes for each one beyond ASCII, the error in base64."""
    error = make(100_000 * letter)
    details = cut(told(error), MAX_DETAILS_BYTES)
    in_details = sum(1 if byte < 128 else 3 for byte in details.encode())
    assert 0 < in_details + 4 * len(error_to_bytes(error)) / 3 < 7500


def test_bytes_that_are_no_error_are_none():
    assert error_from_bytes(b"\xff\xff") is None


def rpc_error(status, details="", *metadata):
    return grpc.aio.AioRpcError(status, grpc.aio.Metadata(), grpc.aio.Metadata(*metadata), details)


def test_the_error_in_the_metadata_counts_before_the_status():
    told = rpc_error(
        grpc.StatusCode.INVALID_ARGUMENT, "", (ERROR_KEY, error_to_bytes(ContextTooLong(9, 8, 7)))
    )
    arrived = error_from_rpc(told, "target")
    assert isinstance(arrived, ContextTooLong)
    assert arrived.context_len == 7


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, Code.INVALID),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, Code.OVERLOADED),
        (grpc.StatusCode.CANCELLED, Code.CANCELLED),
        (grpc.StatusCode.UNAVAILABLE, Code.WORKER_LOST),
        (grpc.StatusCode.UNIMPLEMENTED, Code.WORKER_LOST),
        (grpc.StatusCode.UNKNOWN, Code.WORKER_LOST),
    ],
)
def test_a_bare_status_speaks_for_itself(status, expected):
    assert error_from_rpc(rpc_error(status, "details"), "draft").code is expected


def test_a_loss_names_role_status_and_details():
    lost = error_from_rpc(rpc_error(grpc.StatusCode.UNAVAILABLE, "connection refused"), "draft")
    assert isinstance(lost, WorkerLost)
    assert str(lost) == "the draft worker was lost: UNAVAILABLE: connection refused"
