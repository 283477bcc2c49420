"""Settings of a deployment: tiers, ports, keys, logs and traces. Frozen; read once at start (services.settings)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from adasd.config import MODEL, SELF, EngineConfig, SpeculationConfig, setting


@dataclass(frozen=True, slots=True)
class TierConfig:
    """One model: its engine, number of replicas and Ray resources."""

    engine: EngineConfig
    min_replicas: int = setting(1, "replicas that always run; the target needs at least 1", low=0)
    max_replicas: int = setting(1, "most replicas under load", low=1)
    down_after_s: float = setting(60.0, "seconds of low load before replicas are removed", low=0)
    num_cpus: float = setting(0.5, "Ray CPUs reserved per replica, over all its ranks", low=0)
    num_gpus: float = setting(
        0.0, "Ray GPUs reserved per replica, one per rank; a fraction below 1 shares a GPU", low=0
    )
    accelerator_type: str | None = setting(None, "Ray accelerator type, for example L4 or H100")
    resources: tuple[tuple[str, float], ...] = setting(
        (), "custom Ray resources reserved per replica, for example draft_gpu=1", low=0
    )
    label_selector: tuple[tuple[str, str], ...] = setting(
        (), "labels that a Ray node must have, for example pool=draft"
    )

    @property
    def resources_per_rank(self) -> dict[str, float]:
        """Ray's options for one of the replica's ranks: its part of the CPUs and GPUs."""
        num = self.engine.tensor_parallel
        return {"num_cpus": self.num_cpus / num, "num_gpus": self.num_gpus / num}

    @property
    def placed_engine(self) -> EngineConfig:
        """The engine on what Ray reserves: device ``auto`` is CUDA if that includes a GPU, else the CPU.

        Ray does not hide GPUs from a replica that reserved none, so without this all of them would meet on one card.
        A part of a GPU is that part of its memory, unless ``gpu_memory_utilization`` says another.
        """
        engine = self.engine
        if engine.device == "auto":
            engine = replace(engine, device="cuda" if self.num_gpus > 0 else "cpu")
        if engine.gpu_memory_utilization is None and 0 < self.num_gpus < 1:
            engine = replace(engine, gpu_memory_utilization=round(engine.gpu_share * self.num_gpus, 4))
        return engine


@dataclass(frozen=True, slots=True)
class OrchestratorConfig:
    """The replicas that serve clients, and the Ray nodes that may run them."""

    replicas: int = setting(1, "orchestrator replicas", low=1)
    label_selector: tuple[tuple[str, str], ...] = setting(
        (), "labels that a Ray node must have, for example pool=gateway"
    )
    proxies: str = setting(
        "EveryNode",
        "nodes that run Serve's HTTP proxies when joining a cluster with --address",
        choices=("EveryNode", "HeadOnly"),
    )


@dataclass(frozen=True, slots=True)
class LogConfig:
    """What the replicas write to their logs; never prompts or answers."""

    format: str = setting(
        "text", "log format: one line of text or one JSON object per record", choices=("text", "json")
    )
    level: str = setting(
        "info", "lowest severity that is logged", choices=("debug", "info", "warning", "error")
    )


@dataclass(frozen=True, slots=True)
class TracesConfig:
    """OpenTelemetry export; without an endpoint, no spans are recorded."""

    endpoint: str | None = setting(
        None, "OTLP/HTTP endpoint for spans, for example http://collector:4318/v1/traces; none: no traces"
    )
    sample: float = setting(
        1.0, "share of requests traced where the caller sends no sampling decision", low=0, high=1
    )
    service_name: str = setting("adasd-serve", "service.name of every span")
    headers: tuple[tuple[str, str], ...] = field(
        default=(), repr=False
    )  # of OTEL_EXPORTER_OTLP_HEADERS; not an option

    @property
    def is_on(self) -> bool:
        """Whether spans are recorded."""
        return self.endpoint is not None


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """Mutual TLS between orchestrators and workers: three PEM files, or none of them."""

    certificate: str | None = setting(None, "PEM file with this process's certificate (chain)")
    key: str | None = setting(None, "PEM file with the certificate's private key")
    ca: str | None = setting(None, "PEM file with the authority that signed the peers' certificates")
    name: str = setting("adasd-worker", "DNS name in the certificate of every worker")

    @property
    def is_on(self) -> bool:
        """Whether links use mutual TLS."""
        return self.certificate is not None


@dataclass(frozen=True, slots=True)
class DoorTlsConfig:
    """TLS for clients, over both HTTP and gRPC: two PEM files, or neither."""

    certificate: str | None = setting(
        None,
        "PEM file with the certificate (chain) for HTTPS and gRPC; needed on every node that serves clients",
    )
    key: str | None = setting(None, "PEM file with the certificate's private key, without a password")

    @property
    def is_on(self) -> bool:
        """Whether clients must use TLS."""
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
    draft: TierConfig | None  # the draft source "model"; None: no draft model
    host: str = setting("127.0.0.1", "address that HTTP and gRPC listen on")
    port: int = setting(8000, "HTTP port", low=1, high=65535)
    grpc_port: int = setting(9000, "gRPC port; 0: no gRPC", low=0, high=65535)
    model_name: str = setting("adasd-demo", "model name that clients send")
    orchestrator: OrchestratorConfig = field(default_factory=OrchestratorConfig)
    speculation: SpeculationConfig = field(default_factory=SpeculationConfig)
    max_ongoing_requests: int = setting(64, "requests in progress per orchestrator replica", low=1)
    max_queued_requests: int | None = setting(
        None,
        "requests that wait for a slot per orchestrator replica; more get 429; none: one for every eight slots",
        low=0,
    )
    admission_timeout_s: float = setting(
        30.0, "seconds that a request may wait for a slot; then it gets 429", low=0
    )
    request_timeout_s: float = setting(600.0, "seconds that one answer may take", low=0.001)
    draft_timeout_s: float = setting(
        2.0,
        "seconds to wait for a draft block; from half of them on the draft begins no further token, and at their end "
        "the round continues without a block",
        low=0.001,
    )
    verify_timeout_s: float = setting(
        60.0, "seconds to wait for a verdict; then the target replica counts as lost", low=0.001
    )
    reattach_s: float = setting(1.0, "seconds between attempts to lease a draft replica again", low=0.001)
    max_body_bytes: int = setting(4 * 1024 * 1024, "largest HTTP request body, in bytes", low=1024)
    api_keys_file: str | None = setting(
        None,
        "YAML or JSON file of API keys, name: key or name: sha256:HEX; without keys every caller is served",
    )
    key_requests_per_minute: int | None = setting(
        None, "requests per minute of an API key without a limit of its own; none: no limit", low=1
    )
    key_max_concurrent: int | None = setting(
        None, "concurrent requests of an API key without a limit of its own; none: no limit", low=1
    )
    generation_config: str = setting(
        "auto",
        "auto: a sampling option that a request leaves out is that of the target's generation_config.json, if it has "
        "one; none: always the API's own",
        choices=("auto", "none"),
    )
    control_tokens_in_content: bool = setting(
        False, "the text of a control token in a message is that token; otherwise it is text like any other"
    )
    cors_origins: tuple[str, ...] = setting(
        (), "web origins allowed by CORS, for example https://chat.example.org; *: any"
    )
    log: LogConfig = field(default_factory=LogConfig)
    audit_share: float = setting(
        0.0,
        "share of adaptive answers that an idle target scores again by the exact rule, in one more forward pass "
        "each",
        low=0,
        high=1,
    )
    traces: TracesConfig = field(default_factory=TracesConfig)
    tls: DoorTlsConfig = field(default_factory=DoorTlsConfig)
    model_roots: tuple[str, ...] = setting(
        (),
        "allowed model folders and, after hf:, prefixes of Hugging Face ids, for example /models,hf:Qwen/; empty: "
        "any model",
    )
    worker_tls: TlsConfig = field(default_factory=TlsConfig)
    drafts: tuple[tuple[str, TierConfig], ...] = ()  # further draft models by name; see services.settings
    api_keys: tuple[ApiKey, ...] = ()  # from api_keys_file and ADASD_API_KEYS; not an option

    @property
    def queue_len(self) -> int:
        """Requests that may wait for a target slot, per orchestrator replica.

        By default one for every eight that run: it then waits for about an eighth of an answer (Little's law), however
        fast the targets are, and at the target itself. A longer queue answers no more requests per second.
        """
        if self.max_queued_requests is not None:
            return self.max_queued_requests
        num_slots = self.target.max_replicas * self.target.engine.num_slots / self.orchestrator.replicas
        return math.ceil(min(num_slots, self.max_ongoing_requests) / 8)

    @property
    def guaranteed_slots(self) -> int:
        """Target slots that exist at any time, per orchestrator replica."""
        return self.target.min_replicas * self.target.engine.num_slots // self.orchestrator.replicas

    @property
    def most_requests(self) -> int:
        """Requests that run or wait at the same time, per orchestrator replica: no more find a slot or a place."""
        num_slots = self.target.max_replicas * self.target.engine.num_slots
        return min(self.max_ongoing_requests, num_slots) + self.queue_len

    @property
    def draft_tiers(self) -> dict[str, TierConfig]:
        """Draft tiers by the name of their draft source, the default one first."""
        return {**({MODEL: self.draft} if self.draft is not None else {}), **dict(self.drafts)}

    @property
    def tiers(self) -> dict[str, TierConfig]:
        """All tiers by the name of their Serve deployment: target, draft, draft-NAME."""
        drafts = {
            "draft" if name == MODEL else f"draft-{name}": tier for name, tier in self.draft_tiers.items()
        }
        return {"target": self.target, **drafts}

    @property
    def draft_sources(self) -> tuple[str, ...]:
        """Draft sources apart from n-gram and suffix look-up: the draft models, or the target itself."""
        return tuple(self.draft_tiers) or ((SELF,) if self.target.engine.early_exit else ())
