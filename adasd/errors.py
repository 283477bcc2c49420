"""The tree of all errors that a user or a caller of a worker can see.

    AdasdError
    ├── InvalidRequest          the request itself is wrong            (never retry)
    │   └── ContextTooLong      prompt + answer do not fit
    ├── UnknownModel            no such model is served here
    ├── Unauthenticated         no API key, or an unknown one
    ├── ConfigError             a setting, a file or a pair of models is wrong
    ├── Overloaded              nothing is free now                    (retry later)
    │   └── RateLimited         the caller's key is over its limit
    ├── DeadlineExceeded        the request ran out of time
    ├── Cancelled               the client has left
    ├── WorkerLost              a replica died, hangs or is unreachable (retry elsewhere)
    ├── StaleIncarnation        the replica has restarted              (retry elsewhere)
    ├── UnknownSession          the worker holds no such session       (reopen)
    ├── StaleCache              caller and worker disagree on the cache (resend the prefix)
    ├── Superseded              a newer call of the session replaced this one
    ├── DeviceFailure           the forward pass itself failed         (retry elsewhere)
    │   └── RankLost            a rank of the model is gone: the engine cannot go on
    └── IllegalEvent            a bug: a runner broke the session protocol

Fields are positional and passed to ``super().__init__`` unchanged, because Ray pickles errors.
"""

from __future__ import annotations

from enum import StrEnum


class Code(StrEnum):
    """Kind of error, independent of any protocol; one table per protocol maps it to a status."""

    INVALID = "invalid_request"
    CONTEXT_TOO_LONG = "context_length_exceeded"
    UNKNOWN_MODEL = "model_not_found"
    UNAUTHENTICATED = "invalid_api_key"
    CONFIG = "invalid_configuration"
    OVERLOADED = "overloaded"
    RATE_LIMITED = "rate_limit_exceeded"
    DEADLINE = "deadline_exceeded"
    CANCELLED = "cancelled"
    UNAVAILABLE = "unavailable"
    WORKER_LOST = "worker_lost"
    STALE_INCARNATION = "stale_incarnation"
    UNKNOWN_SESSION = "unknown_session"
    STALE_CACHE = "stale_cache"
    SUPERSEDED = "superseded"
    DEVICE = "device_failure"
    INTERNAL = "internal"


class AdasdError(Exception):
    """Root of the tree."""

    code: Code = Code.INTERNAL


class InvalidRequest(AdasdError):
    """A field of the request is wrong; ``param`` names it (dotted path, or None for the whole body)."""

    code = Code.INVALID

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message, param)
        self.message, self.param = message, param

    def __str__(self) -> str:
        return self.message


class ContextTooLong(InvalidRequest):
    """Prompt and requested answer do not fit into the model's context; lengths in tokens.

    The message is OpenAI's, because clients recognise the error by it.
    """

    code = Code.CONTEXT_TOO_LONG

    def __init__(self, prompt_len: int, max_tokens: int, context_len: int) -> None:
        AdasdError.__init__(self, prompt_len, max_tokens, context_len)
        self.prompt_len, self.max_tokens, self.context_len = prompt_len, max_tokens, context_len
        self.param = "messages"
        self.message = str(self)

    def __str__(self) -> str:
        return (
            f"This model's maximum context length is {self.context_len} tokens. However, you requested "
            f"{self.prompt_len + self.max_tokens} tokens ({self.prompt_len} in the prompt, {self.max_tokens} in "
            "the completion). Please shorten the prompt or lower max_tokens."
        )


class UnknownModel(AdasdError):
    """The request names a model that this deployment does not serve."""

    code = Code.UNKNOWN_MODEL

    def __init__(self, model: str, served: str) -> None:
        super().__init__(model, served)
        self.model, self.served = model, served

    def __str__(self) -> str:
        return f"the model {self.model!r} is not served here; served: {self.served}"


class Unauthenticated(AdasdError):
    """The API key is missing or unknown; the message never repeats it."""

    code = Code.UNAUTHENTICATED


class ConfigError(AdasdError):
    """A setting is wrong; the message says which values disagree and what to do."""

    code = Code.CONFIG


class Overloaded(AdasdError):
    """No capacity is free; a retry after ``retry_after_s`` seconds may succeed."""

    code = Code.OVERLOADED

    def __init__(self, what: str, retry_after_s: float = 1.0) -> None:
        super().__init__(what, retry_after_s)
        self.what, self.retry_after_s = what, retry_after_s

    def __str__(self) -> str:
        return f"{self.what}; try again in {self.retry_after_s:g} s"


class RateLimited(Overloaded):
    """The caller's API key is over its limit; a retry after ``retry_after_s`` seconds may succeed."""

    code = Code.RATE_LIMITED


class DeadlineExceeded(AdasdError):
    """The request was still running after ``limit_s`` seconds."""

    code = Code.DEADLINE

    def __init__(self, what: str, limit_s: float) -> None:
        super().__init__(what, limit_s)
        self.what, self.limit_s = what, limit_s

    def __str__(self) -> str:
        return f"{self.what} took longer than its limit of {self.limit_s:g} s"


class Cancelled(AdasdError):
    """The caller left or aborted the request."""

    code = Code.CANCELLED


class WorkerLost(AdasdError):
    """A worker replica died, hangs or cannot be reached; ``role`` is ``draft`` or ``target``."""

    code = Code.WORKER_LOST

    def __init__(self, role: str, why: str) -> None:
        super().__init__(role, why)
        self.role, self.why = role, why

    def __str__(self) -> str:
        return f"the {self.role} worker was lost: {self.why}"


class StaleIncarnation(AdasdError):
    """The message is for another incarnation of this replica. The present one is a secret of those who hold a lease."""

    code = Code.STALE_INCARNATION

    def __init__(self, expected: str) -> None:
        super().__init__(expected)
        self.expected = expected

    def __str__(self) -> str:
        return f"the message is for incarnation {self.expected}, which this replica is not; take a new lease"


class UnknownSession(AdasdError):
    """No slot is open for this session (never opened, closed, or expired)."""

    code = Code.UNKNOWN_SESSION

    def __init__(self, session: str) -> None:
        super().__init__(session)
        self.session = session

    def __str__(self) -> str:
        return f"no slot is open for session {self.session}; open one first"


class StaleCache(AdasdError):
    """The caller wants to keep more tokens than the worker has cached; lengths in tokens."""

    code = Code.STALE_CACHE

    def __init__(self, session: str, keep_len: int, cached_len: int) -> None:
        super().__init__(session, keep_len, cached_len)
        self.session, self.keep_len, self.cached_len = session, keep_len, cached_len

    def __str__(self) -> str:
        return (
            f"session {self.session}: the caller wants to keep {self.keep_len} cached tokens, the worker holds "
            f"{self.cached_len}; send the tokens from {self.cached_len} on"
        )


class Superseded(AdasdError):
    """A newer call of the same session replaced this one before it had a result; not a failure."""

    code = Code.SUPERSEDED

    def __init__(self, session: str, epoch: int) -> None:
        super().__init__(session, epoch)
        self.session, self.epoch = session, epoch

    def __str__(self) -> str:
        return f"session {self.session}: call {self.epoch} was replaced by a newer one"


class DeviceFailure(AdasdError):
    """The forward pass failed on the device (out of memory, broken kernel)."""

    code = Code.DEVICE


class RankLost(DeviceFailure):
    """A rank of a model on several ranks is gone; the others end, too. Later calls fail in the same way."""


class IllegalEvent(AdasdError):
    """An event that the session's phase does not allow: a bug in the runner, never a user's mistake."""


AGAIN = "send the request again"
ADVICE = {
    Code.DEADLINE: "ask for fewer tokens, or for more time",
    **dict.fromkeys(
        (
            Code.UNAVAILABLE,
            Code.WORKER_LOST,
            Code.STALE_INCARNATION,
            Code.UNKNOWN_SESSION,
            Code.STALE_CACHE,
            Code.SUPERSEDED,
            Code.DEVICE,
        ),
        AGAIN,
    ),
}
"""What a client should do, for errors whose messages do not say it: they are written for the runner, too."""


def told(error: AdasdError) -> str:
    """The message for a client: what happened, and what to do."""
    message, advice = str(error), ADVICE.get(error.code, "")
    return f"{message}; {advice}" if advice not in message else message
