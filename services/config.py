"""Settings of a deployment: tiers, doors, keys, logs and traces. Frozen; read once at start (``services.settings``)."""

from __future__ import annotations

from dataclasses import dataclass, field

from adasd.config import MODEL, SELF, EngineConfig, SpeculationConfig, setting


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
    control_tokens_in_content: bool = setting(
        False, "the text of a control token in a message is that token; otherwise it is text like any other"
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
