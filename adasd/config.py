"""Frozen settings: every field with its default, its unit, its range and a sentence.

They are read once at the door (services.settings), never from the environment here. The YAML file and the
command line of ``adasd serve`` use these names: a top-level field is ``port``, a tier's field is
``target.model`` / ``draft.model`` (on the command line ``--port``, ``--target``, ``--target-dtype``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from adasd.messages import Mode

SELF = "self"
"""The draft source that a target with ``early_exit`` is."""
MODEL = "model"
"""The draft source that the tier ``draft`` is; further tiers bring names of their own."""


def says(
    sentence: str, low: float | None = None, high: float | None = None, choices: tuple[str, ...] = ()
) -> Any:
    """Metadata of a field: what it means, the closed range of a number, the possible texts."""
    return {"help": sentence, "low": low, "high": high, "choices": choices}


def setting(
    default: Any,
    sentence: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A field with a default; see ``says``."""
    return field(default=default, metadata=says(sentence, low, high, choices))


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """One model on one device."""

    model: str = field(metadata=says("folder or Hugging Face id of the model"))
    dtype: str = setting(
        "auto",
        "number format; auto is float32 on CPU and the checkpoint's own on CUDA",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    weights: str = setting(
        "full",
        "full: as dtype says; int8: linear layers rounded to one byte per weight, which is another model (exact then "
        "is the rounded target's law) in less memory, without the compiled kernels",
        choices=("full", "int8"),
    )
    device: str = setting("auto", "cpu, cuda, cuda:N or auto")
    num_devices: int = setting(
        1, "GPUs of one node that share the layers of a model which is too large for one", low=1, high=64
    )
    num_threads: int = setting(1, "CPU threads of one forward pass", low=1, high=1024)
    compile: str = setting(
        "auto",
        "forward passes by kernels built at the start, on CUDA by recorded graphs: auto is where they fit (and on "
        "a CPU are measured to be faster), on insists, off takes torch's operations",
        choices=("auto", "on", "off"),
    )
    deterministic: bool = setting(
        False,
        "no batch changes an answer, not even by rounding; free with the compiled kernels, elsewhere every token "
        "takes a pass of its own",
    )
    num_slots: int = setting(32, "sessions that one replica holds at once", low=1, high=65536)
    max_context: int | None = setting(
        None, "tokens of prompt and answer per slot; none is the model's own limit, at most 4096", low=2
    )
    prefill_chunk: int = setting(
        256, "prompt tokens of one session that one forward pass takes at most", low=1
    )
    verify_budget: int | None = setting(
        None,
        "drafted tokens that one pass judges of all sessions together, the likeliest to stand first; 0 is as "
        "many as its measured times make worth it, none is all",
        low=0,
    )
    prefix_cache: bool = setting(
        True, "use again what earlier sessions computed for the beginning of a prompt"
    )
    cache_bytes: int | None = setting(
        None,
        "bytes of key-value cache per replica; where num_slots full slots take more, there are fewer",
        low=1,
    )
    early_exit: bool = setting(
        False, "target only: its first layers draft for it, as the draft source self; takes no draft model"
    )
    trust_remote_code: bool = setting(False, "run Python code that ships with the model")


@dataclass(frozen=True, slots=True)
class TierConfig:
    """A tier of equal replicas and where Ray may place them."""

    engine: EngineConfig
    min_replicas: int = setting(1, "replicas that always run", low=0)
    max_replicas: int = setting(1, "replicas under load", low=1)
    down_after_s: float = setting(60.0, "seconds of less load before replicas go", low=0)
    num_cpus: float = setting(0.5, "Ray CPUs that one replica reserves", low=0)
    num_gpus: float = setting(
        0.0, "Ray GPUs that one replica reserves; fractions below 1 share a card", low=0
    )
    accelerator_type: str | None = setting(None, "Ray accelerator type, for example L4 or H100")
    resources: tuple[tuple[str, float], ...] = setting(
        (), "custom Ray resources, for example draft_gpu=1", low=0
    )
    label_selector: tuple[tuple[str, str], ...] = setting(
        (), "labels of the Ray nodes, for example pool=draft"
    )


@dataclass(frozen=True, slots=True)
class OrchestratorConfig:
    """The replicas that clients reach, and where Ray may place them."""

    replicas: int = setting(1, "orchestrator replicas", low=1)
    label_selector: tuple[tuple[str, str], ...] = setting(
        (), "labels of the Ray nodes, for example pool=gateway"
    )
    proxies: str = setting(
        "EveryNode",
        "where Serve's HTTP proxies run, with --address",
        choices=("EveryNode", "HeadOnly"),
    )


@dataclass(frozen=True, slots=True)
class SpeculationConfig:
    """The deployment's defaults; a request may choose otherwise within ``max_draft_tokens``."""

    mode: Mode = setting(
        Mode.EXACT, "off: plain decoding; exact: the target's own law; adaptive: relaxed, faster"
    )
    drafting: str = setting("adasd", "policy that decides when drafting stops")
    acceptance: str = setting("collision", "policy that relaxes acceptance in mode adaptive")
    draft: str | None = setting(
        None,
        "where blocks come from: model, ngram, suffix, auto or a tier of drafts; none is the first model",
    )
    recent_tokens: int = setting(
        0,
        "tokens of recent answers (0.5 kB each) that suffix drafts look up, too, whoever asked; 0 is none",
        low=0,
    )
    verification: str = setting(
        "token",
        "how mode exact judges blocks that are sampled without a seed",
        choices=("token", "block"),
    )
    max_draft_tokens: int = setting(16, "tokens per block, hard cap", low=1, high=256)
    max_relaxed_fraction: float = setting(
        0.3, "share of an answer that may be relaxed, mode adaptive", low=0, high=1
    )
    max_distortion: float | None = setting(
        None, "total variation that relaxation may cost, summed over an answer; none is no limit", low=0
    )
    bypass: bool = setting(True, "run rounds plain while drafting does not pay, and try again now and then")
    load_aware: bool = setting(
        False, "cap blocks at what the target's batch has room for, whatever the drafting policy"
    )
    draft_ahead: bool = setting(True, "let the draft prepare for what a verdict may say meanwhile")
    row_len: int = setting(
        128, "entries of the truncated draft law on the wire, where a rule needs it", low=1
    )


@dataclass(frozen=True, slots=True)
class LogConfig:
    """What the replicas write to their logs; never prompts or answers."""

    format: str = setting("text", "one line of text or one JSON object per record", choices=("text", "json"))
    level: str = setting(
        "info", "least severity that is written", choices=("debug", "info", "warning", "error")
    )


@dataclass(frozen=True, slots=True)
class TracesConfig:
    """Where OpenTelemetry spans go; without an endpoint there are none."""

    endpoint: str | None = setting(
        None, "OTLP/HTTP address that spans are sent to, for example http://collector:4318/v1/traces"
    )
    sample: float = setting(
        1.0, "share of requests that are traced if their caller decided nothing", low=0, high=1
    )
    service_name: str = setting("adasd-serve", "service.name of all spans")
    headers: tuple[tuple[str, str], ...] = field(
        default=(), repr=False
    )  # of OTEL_EXPORTER_OTLP_HEADERS, no setting

    @property
    def is_on(self) -> bool:
        """Whether spans are made."""
        return self.endpoint is not None


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """Mutual TLS between orchestrators and workers: three PEM files, or none of them."""

    certificate: str | None = setting(None, "certificate (chain) that this side of a worker link shows")
    key: str | None = setting(None, "private key of the certificate")
    ca: str | None = setting(None, "certificate of the authority that the other side's has to come from")
    name: str = setting("adasd-worker", "DNS name that the certificates of all workers carry")

    @property
    def is_on(self) -> bool:
        """Whether links are encrypted and both sides known."""
        return self.certificate is not None


@dataclass(frozen=True, slots=True)
class DoorTlsConfig:
    """TLS for clients, over HTTP and gRPC alike: two PEM files, or none of them."""

    certificate: str | None = setting(
        None, "certificate (chain) shown to clients, a file on every node with a door; then HTTP is HTTPS"
    )
    key: str | None = setting(None, "private key of the certificate, without a password")

    @property
    def is_on(self) -> bool:
        """Whether clients have to speak TLS."""
        return self.certificate is not None


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One caller that may use the service. The key itself is not kept."""

    name: str
    sha256: str = field(repr=False)  # of the key, 64 hexadecimal digits
    requests_per_minute: int | None = None  # None: no limit
    max_concurrent: int | None = None  # requests at once; None: no limit


@dataclass(frozen=True, slots=True)
class ServeConfig:
    """Everything ``adasd serve`` deploys."""

    target: TierConfig
    draft: TierConfig | None  # the draft source "model"; None: there is none
    host: str = setting("127.0.0.1", "address that HTTP and gRPC listen on")
    port: int = setting(8000, "HTTP port", low=1, high=65535)
    grpc_port: int = setting(9000, "port of the public gRPC API; 0 switches it off", low=0, high=65535)
    model_name: str = setting("adasd-demo", "the model name that clients send")
    orchestrator: OrchestratorConfig = field(default_factory=OrchestratorConfig)
    speculation: SpeculationConfig = field(default_factory=SpeculationConfig)
    max_ongoing_requests: int = setting(64, "requests in progress per orchestrator replica", low=1)
    max_queued_requests: int = setting(
        128, "requests waiting for a slot per orchestrator replica; then 429", low=0
    )
    admission_timeout_s: float = setting(30.0, "seconds that a request waits for a slot before 429", low=0)
    request_timeout_s: float = setting(600.0, "seconds for one answer", low=0.001)
    draft_timeout_s: float = setting(
        2.0, "seconds for one block; then the round goes on without it", low=0.001
    )
    verify_timeout_s: float = setting(
        60.0, "seconds for one verdict; then the target counts as lost", low=0.001
    )
    reattach_s: float = setting(1.0, "seconds between attempts to lease a draft again", low=0.001)
    max_body_bytes: int = setting(4 * 1024 * 1024, "bytes of one HTTP request", low=1024)
    api_keys_file: str | None = setting(
        None, "YAML or JSON file of API keys, name to key or sha256:HEX; without keys everybody may call"
    )
    key_requests_per_minute: int | None = setting(
        None, "requests per minute of an API key that names no limit of its own", low=1
    )
    key_max_concurrent: int | None = setting(
        None, "requests at once of an API key that names no limit of its own", low=1
    )
    cors_origins: tuple[str, ...] = setting(
        (), "web origins whose pages may call, for example https://chat.example.org; * is any"
    )
    log: LogConfig = field(default_factory=LogConfig)
    audit_share: float = setting(
        0.0,
        "share of adaptive answers that the target scores again by the exact rule, when it is idle enough;"
        " costs one more pass over each of them",
        low=0,
        high=1,
    )
    traces: TracesConfig = field(default_factory=TracesConfig)
    tls: DoorTlsConfig = field(default_factory=DoorTlsConfig)
    model_roots: tuple[str, ...] = setting(
        (),
        "folders that models may lie in, and beginnings of Hugging Face ids after hf:, for example "
        "/models,hf:Qwen/; none allows all",
    )
    worker_tls: TlsConfig = field(default_factory=TlsConfig)
    drafts: tuple[tuple[str, TierConfig], ...] = ()  # further draft sources by name; see services.settings
    api_keys: tuple[ApiKey, ...] = ()  # read at the door from api_keys_file and ADASD_API_KEYS, no setting

    @property
    def draft_tiers(self) -> dict[str, TierConfig]:
        """Draft models by the name of their source, the preferred one first."""
        return {**({MODEL: self.draft} if self.draft is not None else {}), **dict(self.drafts)}

    @property
    def tiers(self) -> dict[str, TierConfig]:
        """All tiers by the name of their deployment: target, draft, draft-NAME."""
        drafts = {
            "draft" if name == MODEL else f"draft-{name}": tier for name, tier in self.draft_tiers.items()
        }
        return {"target": self.target, **drafts}

    @property
    def draft_sources(self) -> tuple[str, ...]:
        """What can draft beside the look-ups: the draft models, or the target itself."""
        return tuple(self.draft_tiers) or ((SELF,) if self.target.engine.early_exit else ())
