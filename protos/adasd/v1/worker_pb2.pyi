from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AskFrame(_message.Message):
    __slots__ = ("incarnation", "opens", "drafts", "verifies", "closes")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    OPENS_FIELD_NUMBER: _ClassVar[int]
    DRAFTS_FIELD_NUMBER: _ClassVar[int]
    VERIFIES_FIELD_NUMBER: _ClassVar[int]
    CLOSES_FIELD_NUMBER: _ClassVar[int]
    incarnation: str
    opens: _containers.RepeatedCompositeFieldContainer[OpenAsk]
    drafts: DraftAsks
    verifies: VerifyAsks
    closes: bytes
    def __init__(self, incarnation: _Optional[str] = ..., opens: _Optional[_Iterable[_Union[OpenAsk, _Mapping]]] = ..., drafts: _Optional[_Union[DraftAsks, _Mapping]] = ..., verifies: _Optional[_Union[VerifyAsks, _Mapping]] = ..., closes: _Optional[bytes] = ...) -> None: ...

class OpenAsk(_message.Message):
    __slots__ = ("number", "session", "lease", "headers", "call")
    class HeadersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    CALL_FIELD_NUMBER: _ClassVar[int]
    number: int
    session: int
    lease: str
    headers: _containers.ScalarMap[str, str]
    call: OpenRequest
    def __init__(self, number: _Optional[int] = ..., session: _Optional[int] = ..., lease: _Optional[str] = ..., headers: _Optional[_Mapping[str, str]] = ..., call: _Optional[_Union[OpenRequest, _Mapping]] = ...) -> None: ...

class OpenRequest(_message.Message):
    __slots__ = ("warp", "max_len", "logprobs", "prompt_logprobs")
    WARP_FIELD_NUMBER: _ClassVar[int]
    MAX_LEN_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    warp: Warp
    max_len: int
    logprobs: int
    prompt_logprobs: int
    def __init__(self, warp: _Optional[_Union[Warp, _Mapping]] = ..., max_len: _Optional[int] = ..., logprobs: _Optional[int] = ..., prompt_logprobs: _Optional[int] = ...) -> None: ...

class DraftAsks(_message.Message):
    __slots__ = ("records", "ids", "reals")
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    REALS_FIELD_NUMBER: _ClassVar[int]
    records: bytes
    ids: bytes
    reals: bytes
    def __init__(self, records: _Optional[bytes] = ..., ids: _Optional[bytes] = ..., reals: _Optional[bytes] = ...) -> None: ...

class VerifyAsks(_message.Message):
    __slots__ = ("records", "ids", "confidences", "row_ids", "row_logprobs", "rules")
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCES_FIELD_NUMBER: _ClassVar[int]
    ROW_IDS_FIELD_NUMBER: _ClassVar[int]
    ROW_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    records: bytes
    ids: bytes
    confidences: bytes
    row_ids: bytes
    row_logprobs: bytes
    rules: _containers.RepeatedCompositeFieldContainer[AcceptanceRule]
    def __init__(self, records: _Optional[bytes] = ..., ids: _Optional[bytes] = ..., confidences: _Optional[bytes] = ..., row_ids: _Optional[bytes] = ..., row_logprobs: _Optional[bytes] = ..., rules: _Optional[_Iterable[_Union[AcceptanceRule, _Mapping]]] = ...) -> None: ...

class AcceptanceRule(_message.Message):
    __slots__ = ("name", "numbers", "tables", "relax_budget", "want_distances", "max_distortion")
    class NumbersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class TablesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: bytes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    TABLES_FIELD_NUMBER: _ClassVar[int]
    RELAX_BUDGET_FIELD_NUMBER: _ClassVar[int]
    WANT_DISTANCES_FIELD_NUMBER: _ClassVar[int]
    MAX_DISTORTION_FIELD_NUMBER: _ClassVar[int]
    name: str
    numbers: _containers.ScalarMap[str, float]
    tables: _containers.ScalarMap[str, bytes]
    relax_budget: int
    want_distances: bool
    max_distortion: float
    def __init__(self, name: _Optional[str] = ..., numbers: _Optional[_Mapping[str, float]] = ..., tables: _Optional[_Mapping[str, bytes]] = ..., relax_budget: _Optional[int] = ..., want_distances: _Optional[bool] = ..., max_distortion: _Optional[float] = ...) -> None: ...

class Warp(_message.Message):
    __slots__ = ("temperature", "top_k", "top_p", "min_p", "bias_ids", "bias_values", "eos_ids", "eos_from", "seed", "presence_penalty", "frequency_penalty", "repetition_penalty", "answer_from", "grammar")
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    MIN_P_FIELD_NUMBER: _ClassVar[int]
    BIAS_IDS_FIELD_NUMBER: _ClassVar[int]
    BIAS_VALUES_FIELD_NUMBER: _ClassVar[int]
    EOS_IDS_FIELD_NUMBER: _ClassVar[int]
    EOS_FROM_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_PENALTY_FIELD_NUMBER: _ClassVar[int]
    FREQUENCY_PENALTY_FIELD_NUMBER: _ClassVar[int]
    REPETITION_PENALTY_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FROM_FIELD_NUMBER: _ClassVar[int]
    GRAMMAR_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    bias_ids: bytes
    bias_values: bytes
    eos_ids: bytes
    eos_from: int
    seed: int
    presence_penalty: float
    frequency_penalty: float
    repetition_penalty: float
    answer_from: int
    grammar: Grammar
    def __init__(self, temperature: _Optional[float] = ..., top_k: _Optional[int] = ..., top_p: _Optional[float] = ..., min_p: _Optional[float] = ..., bias_ids: _Optional[bytes] = ..., bias_values: _Optional[bytes] = ..., eos_ids: _Optional[bytes] = ..., eos_from: _Optional[int] = ..., seed: _Optional[int] = ..., presence_penalty: _Optional[float] = ..., frequency_penalty: _Optional[float] = ..., repetition_penalty: _Optional[float] = ..., answer_from: _Optional[int] = ..., grammar: _Optional[_Union[Grammar, _Mapping]] = ...) -> None: ...

class Grammar(_message.Message):
    __slots__ = ("kind", "text")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        JSON_SCHEMA: _ClassVar[Grammar.Kind]
        REGEX: _ClassVar[Grammar.Kind]
        LARK: _ClassVar[Grammar.Kind]
    JSON_SCHEMA: Grammar.Kind
    REGEX: Grammar.Kind
    LARK: Grammar.Kind
    KIND_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    kind: Grammar.Kind
    text: str
    def __init__(self, kind: _Optional[_Union[Grammar.Kind, str]] = ..., text: _Optional[str] = ...) -> None: ...

class ReplyFrame(_message.Message):
    __slots__ = ("opened", "blocks", "verdicts", "failures", "ended")
    OPENED_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    VERDICTS_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    opened: bytes
    blocks: Blocks
    verdicts: Verdicts
    failures: _containers.RepeatedCompositeFieldContainer[FailedAsk]
    ended: _containers.RepeatedCompositeFieldContainer[EndedSession]
    def __init__(self, opened: _Optional[bytes] = ..., blocks: _Optional[_Union[Blocks, _Mapping]] = ..., verdicts: _Optional[_Union[Verdicts, _Mapping]] = ..., failures: _Optional[_Iterable[_Union[FailedAsk, _Mapping]]] = ..., ended: _Optional[_Iterable[_Union[EndedSession, _Mapping]]] = ...) -> None: ...

class Blocks(_message.Message):
    __slots__ = ("records", "ids", "reals", "row_ids", "row_logprobs")
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    REALS_FIELD_NUMBER: _ClassVar[int]
    ROW_IDS_FIELD_NUMBER: _ClassVar[int]
    ROW_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    records: bytes
    ids: bytes
    reals: bytes
    row_ids: bytes
    row_logprobs: bytes
    def __init__(self, records: _Optional[bytes] = ..., ids: _Optional[bytes] = ..., reals: _Optional[bytes] = ..., row_ids: _Optional[bytes] = ..., row_logprobs: _Optional[bytes] = ...) -> None: ...

class Verdicts(_message.Message):
    __slots__ = ("records", "outcomes", "distances", "logprobs")
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    DISTANCES_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    records: bytes
    outcomes: bytes
    distances: bytes
    logprobs: _containers.RepeatedCompositeFieldContainer[VerdictLogprobs]
    def __init__(self, records: _Optional[bytes] = ..., outcomes: _Optional[bytes] = ..., distances: _Optional[bytes] = ..., logprobs: _Optional[_Iterable[_Union[VerdictLogprobs, _Mapping]]] = ...) -> None: ...

class VerdictLogprobs(_message.Message):
    __slots__ = ("number", "tokens", "prompt")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    number: int
    tokens: Logprobs
    prompt: Logprobs
    def __init__(self, number: _Optional[int] = ..., tokens: _Optional[_Union[Logprobs, _Mapping]] = ..., prompt: _Optional[_Union[Logprobs, _Mapping]] = ...) -> None: ...

class Logprobs(_message.Message):
    __slots__ = ("of_tokens", "top_lens", "top_ids", "top_logprobs")
    OF_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TOP_LENS_FIELD_NUMBER: _ClassVar[int]
    TOP_IDS_FIELD_NUMBER: _ClassVar[int]
    TOP_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    of_tokens: bytes
    top_lens: bytes
    top_ids: bytes
    top_logprobs: bytes
    def __init__(self, of_tokens: _Optional[bytes] = ..., top_lens: _Optional[bytes] = ..., top_ids: _Optional[bytes] = ..., top_logprobs: _Optional[bytes] = ...) -> None: ...

class FailedAsk(_message.Message):
    __slots__ = ("number", "error")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    number: int
    error: Failed
    def __init__(self, number: _Optional[int] = ..., error: _Optional[_Union[Failed, _Mapping]] = ...) -> None: ...

class EndedSession(_message.Message):
    __slots__ = ("session", "error")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    session: int
    error: Failed
    def __init__(self, session: _Optional[int] = ..., error: _Optional[_Union[Failed, _Mapping]] = ...) -> None: ...

class Failed(_message.Message):
    __slots__ = ("code", "type", "message", "fields")
    CODE_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    code: str
    type: str
    message: str
    fields: _containers.RepeatedCompositeFieldContainer[ErrorField]
    def __init__(self, code: _Optional[str] = ..., type: _Optional[str] = ..., message: _Optional[str] = ..., fields: _Optional[_Iterable[_Union[ErrorField, _Mapping]]] = ...) -> None: ...

class ErrorField(_message.Message):
    __slots__ = ("text", "number", "real")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    REAL_FIELD_NUMBER: _ClassVar[int]
    text: str
    number: int
    real: float
    def __init__(self, text: _Optional[str] = ..., number: _Optional[int] = ..., real: _Optional[float] = ...) -> None: ...
