"""Frozen settings with units; read once at the door (services.settings), never from the environment here.

The YAML file and the command line of ``adasd serve`` use these names: a top-level field is ``port``, a
tier's field is ``target.model`` / ``draft.model`` (on the command line ``--port``, ``--target``,
``--target-dtype`` and so on).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from adasd.messages import Mode


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """One model on one device."""

    model: str  # folder or Hugging Face id
    dtype: str = "auto"  # float32 | bfloat16 | float16 | auto (float32 on CPU, the checkpoint's on CUDA)
    device: str = "auto"  # cpu | cuda | cuda:N | auto
    num_threads: int = 1  # CPU threads of the forward pass
    num_slots: int = 32  # sessions held at once
    max_context: int | None = None  # tokens per slot; None: the model's own limit, at most 4096
    prefill_chunk: int = 256  # prompt tokens of one session that one forward pass takes at most
    trust_remote_code: bool = False  # run Python code that ships with the model


@dataclass(frozen=True, slots=True)
class TierConfig:
    """A tier of equal replicas and where Ray may place them."""

    engine: EngineConfig
    min_replicas: int = 1
    max_replicas: int = 1
    num_cpus: float = 0.5  # Ray CPUs that one replica reserves
    num_gpus: float = 0.0  # Ray GPUs that one replica reserves, fractions allowed
    accelerator_type: str | None = None  # for example L4 or H100
    resources: tuple[tuple[str, float], ...] = ()  # custom Ray resources
    label_selector: tuple[tuple[str, str], ...] = ()  # Ray node labels


@dataclass(frozen=True, slots=True)
class SpeculationConfig:
    """The deployment's defaults; a request may choose otherwise within ``max_draft_tokens``."""

    mode: Mode = Mode.EXACT
    drafting: str = "adasd"
    acceptance: str = "posterior"  # in mode adaptive
    max_draft_tokens: int = 16  # tokens per block, hard cap
    max_relaxed_fraction: float = 0.3  # of an answer's tokens, in mode adaptive
    row_len: int = 128  # entries of the truncated draft law on the wire, where a rule needs it


@dataclass(frozen=True, slots=True)
class ServeConfig:
    """Everything ``adasd serve`` deploys."""

    target: TierConfig
    draft: TierConfig | None  # None: plain decoding only
    host: str = "127.0.0.1"
    port: int = 8000  # HTTP
    grpc_port: int = 9000  # public gRPC; 0 switches it off
    model_name: str = "adasd-demo"  # the name that clients send
    speculation: SpeculationConfig = field(default_factory=SpeculationConfig)
    max_ongoing_requests: int = 64  # per orchestrator replica
    max_queued_requests: int = 128  # waiting for a slot, per orchestrator replica; beyond: 429
    admission_timeout_s: float = 30.0  # waiting for a slot before 429
    request_timeout_s: float = 600.0  # of one answer
    draft_timeout_s: float = 2.0  # one block; then the round goes on without it
    verify_timeout_s: float = 60.0  # one verdict; then the target counts as lost
    reattach_s: float = 1.0  # between attempts to lease a draft again
    max_body_bytes: int = 4 * 1024 * 1024  # of one HTTP request
