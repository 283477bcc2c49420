"""A session's connection to one worker: draft and verify calls over one Rounds stream.

One task reads the stream and hands every reply to the call with its ``seq``. The reply to a caller that no longer
waits (deadline passed, or cancelled) is dropped; later calls are not affected.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import grpc

from adasd.errors import AdasdError, Cancelled, WorkerLost
from adasd.rounds import DraftBlock, DraftCall, OpenCall, Verdict, VerifyCall
from services.transport.channels import WorkerChannelPool
from services.transport.envelope import Close, Frame, Opened
from services.transport.options import ROUNDS_METHOD
from services.transport.rounds_codec import decode_reply, encode_frame
from services.transport.status import error_from_rpc

A = TypeVar("A", Opened, DraftBlock, Verdict)


@dataclass(frozen=True, slots=True)
class WorkerAddress:
    """The worker's address from a lease."""

    role: str  # draft | target
    address: str  # host:port
    incarnation: str  # life of the worker process


class RoundsLine:
    """One stream to one worker for one session; has the calls of a Drafter and a Verifier.

    Use: ``line = RoundsLine(pool, worker, session, timeout_s)``, ``await line.open(call)``, calls, and on
    every path ``await line.close()``. Errors of a single call (InvalidRequest, StaleCache, UnknownSession, Overloaded,
    DeviceFailure) leave the line usable; after any other error, every later call raises that error too.
    """

    def __init__(
        self,
        pool: WorkerChannelPool,
        worker: WorkerAddress,
        session: str,
        timeout_s: float,
        close_timeout_s: float = 1.0,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """``timeout_s`` bounds the wait for each reply, ``close_timeout_s`` the wait for a clean end.

        ``headers`` are sent as the stream's metadata (a trace context).
        """
        self.worker, self.session = worker, session
        self._timeout_s, self._close_timeout_s = timeout_s, close_timeout_s
        self._pool = pool
        self._stream: grpc.aio.StreamStreamCall = pool.acquire(worker.address).stream_stream(ROUNDS_METHOD)(
            metadata=tuple((headers or {}).items()) or None
        )
        self._waiting: dict[int, asyncio.Future[Opened | DraftBlock | Verdict]] = {}
        self._num_sent = 0
        self._writing = asyncio.Lock()
        self._writes: set[asyncio.Task[None]] = set()
        self._over: AdasdError | None = None
        self._closing: asyncio.Future[None] | None = None
        self._reader = asyncio.get_running_loop().create_task(self._read())

    async def open(self, call: OpenCall, timeout_s: float | None = None) -> None:
        """Take a slot. Errors: Overloaded, InvalidRequest, StaleIncarnation, UnknownSession, WorkerLost."""
        await self._ask(call, Opened, timeout_s)

    async def draft(self, call: DraftCall, timeout_s: float | None = None) -> DraftBlock:
        """A block; WorkerLost if there is no reply in ``timeout_s`` (None: the line's own)."""
        return await self._ask(call, DraftBlock, timeout_s)

    async def verify(self, call: VerifyCall, timeout_s: float | None = None) -> Verdict:
        """A verdict; WorkerLost if there is no reply in ``timeout_s`` (None: the line's own)."""
        return await self._ask(call, Verdict, timeout_s)

    async def close(self) -> None:
        """Give the slot back; callers that still wait get Cancelled. Idempotent, also from several tasks."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        await asyncio.shield(self._closing)

    # ----------------------------------------------------------------- sending

    async def _ask(
        self, call: OpenCall | DraftCall | VerifyCall, kind: type[A], timeout_s: float | None
    ) -> A:
        if self._over is not None:
            raise self._over
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        seq, data = self._encode(call)
        answer = self._waiting[seq] = asyncio.get_running_loop().create_future()
        self._send(data)
        try:
            async with asyncio.timeout(limit_s):
                got = await answer
        except TimeoutError:
            raise WorkerLost(
                self.worker.role, f"no answer from {self.worker.address} in {limit_s:g} s"
            ) from None
        finally:
            self._waiting.pop(seq, None)
        if not isinstance(got, kind):
            raise WorkerLost(self.worker.role, f"asked for {kind.__name__}, got {type(got).__name__}")
        return got

    def _encode(self, call: OpenCall | DraftCall | VerifyCall | Close) -> tuple[int, bytes]:
        self._num_sent += 1
        frame = Frame(self.session, self.worker.incarnation, self._num_sent, call)
        return self._num_sent, encode_frame(frame)

    def _send(self, data: bytes) -> None:
        """Write in a separate task: cancelling a write half-way would end the whole stream."""
        task = asyncio.get_running_loop().create_task(self._write(data))
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    async def _write(self, data: bytes) -> None:
        try:
            async with self._writing:
                await self._stream.write(data)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass  # the stream is over and the reader has the reason; a write that meets the end only gets INTERNAL

    # ----------------------------------------------------------------- receiving

    async def _read(self) -> None:
        try:
            while (data := await self._stream.read()) is not grpc.aio.EOF:
                self._deliver(data)
            self._end(WorkerLost(self.worker.role, f"{self.worker.address} ended the stream"))
        except grpc.aio.AioRpcError as error:
            self._end(_as_loss(error_from_rpc(error, self.worker.role), self.worker.role))
        except asyncio.CancelledError:
            self._end(WorkerLost(self.worker.role, f"the stream to {self.worker.address} was cancelled"))
        except AdasdError as error:  # a reply that cannot be decoded
            self._end(WorkerLost(self.worker.role, str(error)))
            self._stream.cancel()

    def _deliver(self, data: bytes) -> None:
        reply = decode_reply(data, self.session)
        waiting = self._waiting.pop(reply.seq, None)
        if waiting is None or waiting.done():
            return  # late: no caller waits for it any more
        if isinstance(reply.answer, AdasdError):
            waiting.set_exception(reply.answer)
        else:
            waiting.set_result(reply.answer)

    def _end(self, error: AdasdError) -> None:
        """End the line; present waiters and later calls get this error (the first reason counts)."""
        self._over = self._over or error
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(self._over)
        self._waiting.clear()

    # ----------------------------------------------------------------- closing

    async def _close(self) -> None:
        clean = self._over is None and not self._waiting
        self._end(Cancelled(f"the line of session {self.session} was closed"))
        try:
            if clean:
                async with asyncio.timeout(self._close_timeout_s):
                    await self._write(self._encode(Close())[1])
                    await asyncio.wait({self._reader})
        except TimeoutError:
            pass
        finally:
            self._stream.cancel()
            for write in self._writes:  # a write to a stream that never started would wait for ever
                write.cancel()
            await asyncio.gather(self._reader, *self._writes, return_exceptions=True)
            self._pool.release(self.worker.address)


def _as_loss(error: AdasdError, role: str) -> AdasdError:
    """A stream that ends with only a status means that the worker is lost, unless the error is more specific."""
    return WorkerLost(role, str(error)) if isinstance(error, Cancelled) else error
