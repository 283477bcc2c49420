from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RoundRequest(_message.Message):
    __slots__ = ("session", "incarnation", "seq", "open", "draft", "verify", "close")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    DRAFT_FIELD_NUMBER: _ClassVar[int]
    VERIFY_FIELD_NUMBER: _ClassVar[int]
    CLOSE_FIELD_NUMBER: _ClassVar[int]
    session: str
    incarnation: str
    seq: int
    open: OpenRequest
    draft: DraftRequest
    verify: VerifyRequest
    close: CloseRequest
    def __init__(self, session: _Optional[str] = ..., incarnation: _Optional[str] = ..., seq: _Optional[int] = ..., open: _Optional[_Union[OpenRequest, _Mapping]] = ..., draft: _Optional[_Union[DraftRequest, _Mapping]] = ..., verify: _Optional[_Union[VerifyRequest, _Mapping]] = ..., close: _Optional[_Union[CloseRequest, _Mapping]] = ...) -> None: ...

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

class CloseRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

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

class DraftRequest(_message.Message):
    __slots__ = ("epoch", "keep_len", "feed", "max_tokens", "entropy_ceiling", "confidence_floor", "row_len", "optimistic", "want_others", "table")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    KEEP_LEN_FIELD_NUMBER: _ClassVar[int]
    FEED_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    ENTROPY_CEILING_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FLOOR_FIELD_NUMBER: _ClassVar[int]
    ROW_LEN_FIELD_NUMBER: _ClassVar[int]
    OPTIMISTIC_FIELD_NUMBER: _ClassVar[int]
    WANT_OTHERS_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    keep_len: int
    feed: bytes
    max_tokens: int
    entropy_ceiling: float
    confidence_floor: float
    row_len: int
    optimistic: bool
    want_others: bool
    table: ChanceTable
    def __init__(self, epoch: _Optional[int] = ..., keep_len: _Optional[int] = ..., feed: _Optional[bytes] = ..., max_tokens: _Optional[int] = ..., entropy_ceiling: _Optional[float] = ..., confidence_floor: _Optional[float] = ..., row_len: _Optional[int] = ..., optimistic: _Optional[bool] = ..., want_others: _Optional[bool] = ..., table: _Optional[_Union[ChanceTable, _Mapping]] = ...) -> None: ...

class ChanceTable(_message.Message):
    __slots__ = ("chances", "next_chances", "price")
    CHANCES_FIELD_NUMBER: _ClassVar[int]
    NEXT_CHANCES_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    chances: _containers.RepeatedScalarFieldContainer[float]
    next_chances: _containers.RepeatedScalarFieldContainer[float]
    price: float
    def __init__(self, chances: _Optional[_Iterable[float]] = ..., next_chances: _Optional[_Iterable[float]] = ..., price: _Optional[float] = ...) -> None: ...

class Rows(_message.Message):
    __slots__ = ("row_len", "ids", "logprobs")
    ROW_LEN_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    row_len: int
    ids: bytes
    logprobs: bytes
    def __init__(self, row_len: _Optional[int] = ..., ids: _Optional[bytes] = ..., logprobs: _Optional[bytes] = ...) -> None: ...

class VerifyRequest(_message.Message):
    __slots__ = ("epoch", "keep_len", "feed", "block", "rows", "rule", "confidences", "assuming")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    KEEP_LEN_FIELD_NUMBER: _ClassVar[int]
    FEED_FIELD_NUMBER: _ClassVar[int]
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCES_FIELD_NUMBER: _ClassVar[int]
    ASSUMING_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    keep_len: int
    feed: bytes
    block: bytes
    rows: Rows
    rule: AcceptanceRule
    confidences: bytes
    assuming: Assumption
    def __init__(self, epoch: _Optional[int] = ..., keep_len: _Optional[int] = ..., feed: _Optional[bytes] = ..., block: _Optional[bytes] = ..., rows: _Optional[_Union[Rows, _Mapping]] = ..., rule: _Optional[_Union[AcceptanceRule, _Mapping]] = ..., confidences: _Optional[bytes] = ..., assuming: _Optional[_Union[Assumption, _Mapping]] = ...) -> None: ...

class Assumption(_message.Message):
    __slots__ = ("epoch", "next_token", "num_accepted")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    NEXT_TOKEN_FIELD_NUMBER: _ClassVar[int]
    NUM_ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    next_token: int
    num_accepted: int
    def __init__(self, epoch: _Optional[int] = ..., next_token: _Optional[int] = ..., num_accepted: _Optional[int] = ...) -> None: ...

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

class RoundReply(_message.Message):
    __slots__ = ("seq", "opened", "drafted", "verdict", "failed")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    OPENED_FIELD_NUMBER: _ClassVar[int]
    DRAFTED_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    seq: int
    opened: Opened
    drafted: Drafted
    verdict: Verdict
    failed: Failed
    def __init__(self, seq: _Optional[int] = ..., opened: _Optional[_Union[Opened, _Mapping]] = ..., drafted: _Optional[_Union[Drafted, _Mapping]] = ..., verdict: _Optional[_Union[Verdict, _Mapping]] = ..., failed: _Optional[_Union[Failed, _Mapping]] = ...) -> None: ...

class Opened(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Drafted(_message.Message):
    __slots__ = ("epoch", "base_len", "tokens", "entropies", "rows", "compute_ms", "queue_ms", "confidences", "others")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    BASE_LEN_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    ENTROPIES_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_MS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_MS_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCES_FIELD_NUMBER: _ClassVar[int]
    OTHERS_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    base_len: int
    tokens: bytes
    entropies: bytes
    rows: Rows
    compute_ms: float
    queue_ms: float
    confidences: bytes
    others: bytes
    def __init__(self, epoch: _Optional[int] = ..., base_len: _Optional[int] = ..., tokens: _Optional[bytes] = ..., entropies: _Optional[bytes] = ..., rows: _Optional[_Union[Rows, _Mapping]] = ..., compute_ms: _Optional[float] = ..., queue_ms: _Optional[float] = ..., confidences: _Optional[bytes] = ..., others: _Optional[bytes] = ...) -> None: ...

class Verdict(_message.Message):
    __slots__ = ("epoch", "base_len", "num_accepted", "next_token", "relaxed", "exact_ok", "distances", "cached_tokens", "compute_ms", "queue_ms", "logprobs", "prompt_logprobs", "batch_size", "block_len", "distortion", "batch_tokens")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    BASE_LEN_FIELD_NUMBER: _ClassVar[int]
    NUM_ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    NEXT_TOKEN_FIELD_NUMBER: _ClassVar[int]
    RELAXED_FIELD_NUMBER: _ClassVar[int]
    EXACT_OK_FIELD_NUMBER: _ClassVar[int]
    DISTANCES_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_MS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_MS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    BLOCK_LEN_FIELD_NUMBER: _ClassVar[int]
    DISTORTION_FIELD_NUMBER: _ClassVar[int]
    BATCH_TOKENS_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    base_len: int
    num_accepted: int
    next_token: int
    relaxed: bytes
    exact_ok: bytes
    distances: bytes
    cached_tokens: int
    compute_ms: float
    queue_ms: float
    logprobs: Logprobs
    prompt_logprobs: Logprobs
    batch_size: int
    block_len: int
    distortion: float
    batch_tokens: int
    def __init__(self, epoch: _Optional[int] = ..., base_len: _Optional[int] = ..., num_accepted: _Optional[int] = ..., next_token: _Optional[int] = ..., relaxed: _Optional[bytes] = ..., exact_ok: _Optional[bytes] = ..., distances: _Optional[bytes] = ..., cached_tokens: _Optional[int] = ..., compute_ms: _Optional[float] = ..., queue_ms: _Optional[float] = ..., logprobs: _Optional[_Union[Logprobs, _Mapping]] = ..., prompt_logprobs: _Optional[_Union[Logprobs, _Mapping]] = ..., batch_size: _Optional[int] = ..., block_len: _Optional[int] = ..., distortion: _Optional[float] = ..., batch_tokens: _Optional[int] = ...) -> None: ...

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
