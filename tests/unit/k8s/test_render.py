"""``adasd k8s``: from a topology to an overlay, and what it refuses."""

from __future__ import annotations

import copy
import io
from dataclasses import replace

import pytest
import yaml

from cluster.cli import main
from cluster.cli.k8s import main as k8s
from cluster.entry import read
from cluster.k8s import facts as cluster_facts
from cluster.k8s.manifests import Manifests
from cluster.k8s.relations import problems
from cluster.k8s.render import render
from services.config import ApiKey
from services.orchestrator.deployment import shared_uses
from tests.unit.k8s.conftest import K8S, built, needed
from tests.unit.k8s.kustomize import build
from tests.unit.k8s.schemas import complaints

MEMORY = "pods: {target: {memory: 80Gi}}"


@pytest.fixture
def rendered(tmp_path, capsys):
    def render(topology: str, cluster: str = ""):
        (tmp_path / "topology.yaml").write_text(topology)
        words = ["render", "--topology", str(tmp_path / "topology.yaml"), "--out", str(tmp_path / "out")]
        (tmp_path / "cluster.yaml").write_text(cluster)
        words += ["--cluster", str(tmp_path / "cluster.yaml")]
        code = k8s(words)
        said = capsys.readouterr()
        return code, said.err if code else build(tmp_path / "out")

    return render


def service(documents):
    return next(d for d in documents if d["kind"] == "RayService")["spec"]


def app(documents):
    return yaml.safe_load(service(documents)["serveConfigV2"])["applications"][0]


def drains(documents):
    key = "graceful_shutdown_timeout_s"
    return {d["name"]: d[key] for d in app(documents)["deployments"] if key in d}


def group(documents, name):
    return next(
        g for g in service(documents)["rayClusterConfig"]["workerGroupSpecs"] if g["groupName"] == name
    )


def test_an_empty_topology_is_the_demo_pair_in_one_group(rendered):
    code, documents = rendered("")
    assert code == 0
    assert [g["groupName"] for g in service(documents)["rayClusterConfig"]["workerGroupSpecs"]] == ["gateway"]
    fixed = {"host": "0.0.0.0", "port": 8000, "grpc_port": 9000}
    assert app(documents)["args"] == {"orchestrator": {"replicas": 1}, **fixed}


def orchestrators(documents):
    """What Serve is told of their number, and what they are told themselves."""
    deployment = next(d for d in app(documents)["deployments"] if d["name"] == "orchestrator")
    auto = deployment.get("autoscaling_config", {})
    bounds = (auto.get("min_replicas"), auto.get("max_replicas")) if auto else deployment["num_replicas"]
    return bounds, read(app(documents)["args"], {}).orchestrator.replicas


@pytest.mark.parametrize(
    ("topology", "cluster", "numbers"),
    [
        ("", "gateways: {min: 2, max: 4}", ((2, 4), 4)),
        ("orchestrator: {replicas: 4, proxies: HeadOnly}", "gateways: {min: 2, max: 4}", ((2, 4), 4)),
        ("orchestrator: {replicas: 3}", "", (3, 3)),
        ("orchestrator.replicas: 3", "", (3, 3)),
    ],
)
def test_orchestrators_know_how_many_there_may_be(rendered, topology, cluster, numbers):
    code, documents = rendered(topology, cluster)
    assert (code, orchestrators(documents)) == (0, numbers)
    assert group(documents, "gateway")["maxReplicas"] == numbers[1]
    assert problems(documents) == []
    if "HeadOnly" in topology:
        assert app(documents)["args"]["orchestrator"]["proxies"] == "HeadOnly"


GROWS = "target: {min_replicas: 2, max_replicas: 4}"


@pytest.mark.parametrize("cluster", ["", "gateways: {min: 3, max: 4}"])
def test_a_tier_cannot_add_gateway_pods_that_would_have_no_orchestrator(rendered, cluster):
    code, said = rendered(GROWS, cluster)
    assert code == 2
    assert "target: up to 4 replicas would share pods with the orchestrators" in said
    assert len(said.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("topology", "cluster", "bounds"),
    [
        (GROWS, "gateways: {min: 4, max: 5}", {"gateway": (4, 5)}),
        (GROWS.replace("}", ", label_selector: {pool: target}}"), "", {"gateway": (1, 1), "target": (2, 4)}),
    ],
)
def test_what_the_refusal_of_such_a_tier_proposes_fits_together(rendered, topology, cluster, bounds):
    _, documents = rendered(topology, cluster)
    groups = service(documents)["rayClusterConfig"]["workerGroupSpecs"]
    assert {g["groupName"]: (g["minReplicas"], g["maxReplicas"]) for g in groups} == bounds
    assert problems(documents) == []


def test_limits_of_api_keys_hold_over_all_orchestrators_of_an_overlay():
    args = {
        name: value for name, value in app(built("two-tier-tls"))["args"].items() if name != "api_keys_file"
    }
    key = ApiKey("alice", "00" * 32, requests_per_minute=10)
    assert shared_uses(replace(read(args, {}), api_keys=(key,)), object()) is not None


def test_times_follow_from_the_longest_answer(rendered):
    _, documents = rendered("request_timeout_s: 1000")
    assert drains(documents) == {"orchestrator": 1015, "draft": 1015, "target": 1015}
    pod = group(documents, "gateway")["template"]["spec"]
    assert pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1] == "1030"
    assert pod["terminationGracePeriodSeconds"] == 1060
    assert service(documents)["rayClusterDeletionDelaySeconds"] == 1060


def test_half_cards_make_half_as_many_pods(rendered):
    _, documents = rendered(
        "target: {model: a/b}\n"
        "draft: {model: a/c, num_gpus: 0.5, min_replicas: 1, max_replicas: 5, resources: {fast: 1}}",
        "pods: {draft: {memory: 8Gi}}",
    )
    draft = group(documents, "draft")
    assert (draft["minReplicas"], draft["maxReplicas"]) == (1, 3)
    assert draft["resources"] == {"CPU": "1", "GPU": "1", "fast": "2"}
    assert draft["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1


@pytest.mark.parametrize(
    ("selector", "label"), [("L4", {"gpu": "L4"}), ("in(L4, L40S)", {"gpu": "L4"}), ("!H100", {})]
)
def test_a_group_carries_a_label_that_its_tier_accepts(rendered, selector, label):
    _, documents = rendered(f"target: {{model: a/b, label_selector: {{gpu: '{selector}'}}}}")
    assert group(documents, "target")["labels"] == label


def test_drafts_with_the_same_wishes_share_a_group_and_each_is_drained(rendered):
    wishes = "label_selector: {pool: draft}"
    topology = (
        f"target: org/t\ndraft: {{model: org/d, {wishes}}}\ndrafts: {{tiny: {{model: org/s, {wishes}}}}}\n"
    )
    code, documents = rendered(topology)
    assert code == 0
    names = [g["groupName"] for g in service(documents)["rayClusterConfig"]["workerGroupSpecs"]]
    assert names == ["gateway", "draft"]
    assert set(drains(documents)) == {"orchestrator", "target", "draft", "draft-tiny"}
    assert k8s(["check"], io.StringIO(yaml.safe_dump_all(documents))) == 0


def test_groups_of_several_drafts_have_names_of_their_own(rendered):
    tiers = {"x": "b", "y": "b", "z": "c", "zz": "c"}
    drafts = ", ".join(
        f"{name}: {{model: a/d, label_selector: {{pool: {pool}}}}}" for name, pool in tiers.items()
    )
    code, documents = rendered(
        f"target: a/t\ndraft: {{model: a/d, label_selector: {{pool: a}}}}\ndrafts: {{{drafts}}}",
        "pods: {draft: {cpu: '1'}, draft-x: {cpu: '2'}, draft-z: {cpu: '3'}}",
    )
    assert code == 0
    names = [g["groupName"] for g in service(documents)["rayClusterConfig"]["workerGroupSpecs"]]
    assert names == ["gateway", "draft", "draft-x", "draft-z"]
    assert problems(documents) == []


def test_null_for_the_files_of_secrets_is_the_same_as_nothing(rendered):
    _, documents = rendered("api_keys_file: null\nworker_tls: null")
    assert documents == rendered("")[1]


def test_an_accelerator_is_known_to_the_autoscaler(rendered):
    _, documents = rendered("target: {model: a/b, num_gpus: 1, accelerator_type: H100}", MEMORY)
    assert group(documents, "target")["resources"]["accelerator_type:H100"] == "1"


def test_a_target_on_four_ranks_gets_pods_with_four_cards(rendered):
    wishes = "num_gpus: 4, num_cpus: 4, label_selector: {pool: target}"
    code, documents = rendered(
        f"target: {{model: a/b, tensor_parallel: 4, {wishes}}}",
        "pods: {target: {memory: 200Gi, shared_memory: 8Gi}}",
    )
    assert code == 0
    target = group(documents, "target")
    assert target["resources"] == {"CPU": "4", "GPU": "4"}
    container = target["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 4
    assert problems(documents) == []
    target["resources"]["GPU"] = "3"
    (sentence,) = {one.partition(";")[2] for one in problems(documents)}
    assert sentence == " one needs 4 CPU, 4 GPU, label pool=target"


def test_models_are_copied_where_they_are_loaded_and_their_text_everywhere(rendered):
    _, documents = rendered(
        "target: {model: /models/big, num_gpus: 1, label_selector: {pool: target}}\n"
        "draft: {model: /models/small, num_gpus: 1, label_selector: {pool: draft}}",
        "models: {store: 's3:weights'}\npods: {target: {memory: 80Gi}, draft: {memory: 8Gi}}",
    )
    copies = {
        name: group(documents, name)["template"]["spec"]["initContainers"][0]["command"][-1].splitlines()
        for name in ("gateway", "draft", "target")
    }
    text_only = "rclone copy --transfers 8 --exclude '*.safetensors' s3:weights/big /models/big"
    assert copies["gateway"] == [text_only]
    assert copies["draft"] == [text_only, "rclone copy --transfers 8 s3:weights/small /models/small"]
    assert copies["target"] == ["rclone copy --transfers 8 s3:weights/big /models/big"]


@pytest.mark.parametrize(
    ("topology", "cluster", "sentence"),
    [
        ("port: [", "", "cannot read the topology"),
        ("[]", "", "expected names and values, found list"),
        ("tarjet: a/b", "", "there is no setting 'tarjet'; did you mean 'target'?"),
        ("target: /home/me/model", "", "a folder of this machine"),
        ("target: /models/big", "", "nothing is mounted there"),
        ("target: {model: a/b, label_selector: {pool: gateway}}", "", "the orchestrators' own"),
        ("target: {model: a/b, num_gpus: 1, min_replicas: 3, max_replicas: 2}", "", "min_replicas is 3"),
        ("", "pods: {traget: {}}", "there is no group 'traget'; this topology has gateway"),
        ("target: {model: a/b, num_gpus: 1}", "", "pods.target: memory is missing"),
        ("", "env: {HOME: /root}", "env: HOME is set by the pods themselves"),
        ("", "env: {1X: a}", "env.1X"),
        ("", "env: {TOKEN: {secret: hub}}", "field required"),
        ("", "pods: {gateway: {tolerations: [{tolerationSeconds: 3}]}}", "needs effect: noexecute"),
        ("", "ingress: {}", "ingress.host: field required"),
        ("", "route: {gateway: g}", "route.host: field required"),
        ("", "route: {gateway: g, host: Chat_1}", "route.host: string should match"),
        ("", "route: {gateway: g, host: a.org, grpc_host: a.org}", "host a.org and grpc_host a.org overlap"),
        ("", "route: {gateway: g, host: '*.a.org', grpc_host: b.a.org}", "overlap"),
        ("", "modles: {}", "modles: extra inputs are not permitted"),
        ("", "models: {}", "give either claim or store"),
        ("", "pods: {gateway: {memory: lots}}", "pods.gateway.memory: string should match"),
        ("", "gateways: {min: 3, max: 2}", "min is 3, but max is 2"),
        (
            "orchestrator: {replicas: 3}",
            "gateways: {min: 2, max: 4}",
            "gateways.max is 4 in the file of --cluster",
        ),
        ("orchestrator: {replicas: 1}", "gateways: {max: 2}", "orchestrator.replicas is 1 in the topology"),
        ("api_keys_file: 3", "", "api_keys_file: 3 is not the name of a file"),
        ("traces: {endpoint: 'http://c:99999'}", "", "traces.endpoint is 'http://c:99999'"),
        ("", "images: {cpu: registry:5000/adasd}", "has no tag"),
        ("", "api_keys_secret: keys", "the topology has no api_keys_file"),
        ("", "worker_tls_secret: links", "the topology has no worker_tls"),
    ],
)
def test_bad_input_gets_a_sentence_and_status_2(rendered, topology, cluster, sentence):
    code, said = rendered(topology, cluster)
    assert (code, sentence in said) == (2, True), said


def test_without_the_file_of_the_cluster_nothing_is_written(tmp_path, capsys):
    (tmp_path / "topology.yaml").write_text("target: {model: a/b, num_gpus: 1, accelerator_type: H100}")
    assert k8s(["render", "--topology", str(tmp_path / "topology.yaml")]) == 2
    assert "name their file with --cluster FILE" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["topology.yaml"]


EVERYTHING = """
env: {HF_ENDPOINT: https://hub.example.org, HF_TOKEN: {secret: adasd-hub, key: token}}
image_pull_secrets: [registry]
ingress: {host: chat.example.org, class_name: nginx, tls_secret: chat-tls, annotations: {a.example.org/t: "600"}}
models: {claim: adasd-models}
pods:
  target:
    memory: 80Gi
    tolerations: [{key: spot, operator: Exists, effect: NoExecute, tolerationSeconds: 300}]
"""


def test_variables_pull_secrets_tolerations_and_the_way_in_are_valid_and_need_their_secrets(
    rendered, tmp_path
):
    topology = "target: {model: /models/b, num_gpus: 1}"
    code, documents = rendered(topology, EVERYTHING)
    assert code == 0
    assert {d["metadata"]["name"]: complaints(d) for d in documents if complaints(d)} == {}
    for pod in Manifests(documents).pods():
        variables = {v["name"]: v for v in pod.ray["env"]}
        assert variables["HF_ENDPOINT"]["value"] == "https://hub.example.org"
        assert variables["HF_TOKEN"]["valueFrom"] == {"secretKeyRef": {"name": "adasd-hub", "key": "token"}}
        assert pod.spec["imagePullSecrets"] == [{"name": "registry"}]
    tolerations = group(documents, "target")["template"]["spec"]["tolerations"]
    assert tolerations[0]["tolerationSeconds"] == 300
    needs = {"secret/adasd-hub", "secret/registry", "secret/chat-tls", "persistentvolumeclaim/adasd-models"}
    facts = cluster_facts.read(tmp_path / "cluster.yaml")
    assert set(render(tmp_path / "topology.yaml", facts, tmp_path).needs) == needs
    missing = [
        sentence.split()[0] for sentence in problems(documents) if "referred to but not there" in sentence
    ]
    assert set(missing) == needs
    assert problems(documents, frozenset(needs)) == []


ROUTE = (
    "route: {gateway: public, namespace: gateways, listener: https, host: chat.a.org, grpc_host: grpc.a.org}"
)


def test_routes_lead_from_a_gateway_to_both_doors(rendered, tmp_path):
    code, documents = rendered("request_timeout_s: 900", ROUTE)
    assert code == 0
    assert {d["metadata"]["name"]: complaints(d) for d in documents if complaints(d)} == {}
    http, grpc = (
        next(d["spec"] for d in documents if d["kind"] == kind) for kind in ("HTTPRoute", "GRPCRoute")
    )
    parents = [{"name": "public", "namespace": "gateways", "sectionName": "https"}]
    assert http == {
        "parentRefs": parents,
        "hostnames": ["chat.a.org"],
        "rules": [{"backendRefs": [{"name": "adasd", "port": 8000}], "timeouts": {"request": "900s"}}],
    }
    assert grpc == {
        "parentRefs": parents,
        "hostnames": ["grpc.a.org"],
        "rules": [{"backendRefs": [{"name": "adasd", "port": 9000}]}],
    }
    facts = cluster_facts.read(tmp_path / "cluster.yaml")
    assert render(tmp_path / "topology.yaml", facts, tmp_path).needs == ("gateway/public",)
    assert problems(documents, frozenset({"gateway/public"})) == []
    assert [text.split()[0] for text in problems(documents)] == ["gateway/public"]


def test_without_a_host_of_its_own_grpc_has_no_route(rendered):
    _, documents = rendered("", "route: {gateway: public, host: '*.a.org'}")
    assert [d["kind"] for d in documents if d["kind"].endswith("Route")] == ["HTTPRoute"]
    (parent,) = next(d["spec"]["parentRefs"] for d in documents if d["kind"] == "HTTPRoute")
    assert parent == {"name": "public"}


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (
            lambda http, grpc: grpc["rules"][0]["backendRefs"][0].update(port=8000),
            "GRPCRoute adasd sends to port 8000 of service adasd, which is not its port 'grpc'",
        ),
        (
            lambda http, grpc: http["rules"][0]["backendRefs"][0].update(port=80),
            "HTTPRoute adasd sends to port 80 of service adasd, which is not its port 'http'",
        ),
        (
            lambda http, grpc: http["rules"][0]["timeouts"].update(request="1m30s"),
            "HTTPRoute adasd cuts after 1m30s, but answers may take 900 s",
        ),
        (
            lambda http, grpc: grpc.update(hostnames=["*.a.org"]),
            "HTTPRoute and GRPCRoute share the host chat.a.org; a listener takes only one of them",
        ),
        (
            lambda http, grpc: http["rules"][0]["backendRefs"][0].update(name="other"),
            "service/other is referred to but not there; create it, or say --existing service/other",
        ),
    ],
)
def test_a_spoilt_route_is_one_sentence(rendered, spoil, sentence):
    _, documents = rendered("request_timeout_s: 900", ROUTE)
    spoil(*(next(d["spec"] for d in documents if d["kind"] == kind) for kind in ("HTTPRoute", "GRPCRoute")))
    assert problems(documents, frozenset({"gateway/public"})) == [sentence]


@pytest.mark.parametrize(
    ("endpoint", "rule"),
    [
        (
            "http://collector.observability.svc:4318/v1/traces",
            {
                "to": [
                    {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "observability"}}}
                ],
                "ports": [{"protocol": "TCP", "port": 4318}],
            },
        ),
        ("http://10.1.2.3:4318/v1/traces", {"ports": [{"protocol": "TCP", "port": 4318}]}),
        ("https://traces.example.org/v1/traces", None),
    ],
)
@pytest.mark.parametrize("by_variable", [False, True])
def test_pods_reach_the_collector_of_traces(rendered, endpoint, rule, by_variable):
    topology = "" if by_variable else f"traces: {{endpoint: '{endpoint}'}}"
    cluster = f"env: {{OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: '{endpoint}'}}" if by_variable else ""
    _, documents = rendered(topology, cluster)
    policies = [d for d in documents if d["metadata"]["name"] == "adasd-traces"]
    assert [d["spec"]["egress"] for d in policies] == ([[rule]] if rule else [])
    assert [complaints(d) for d in policies] == [[]] * len(policies)
    assert problems(documents) == []
    if rule:
        without = [d for d in documents if d not in policies]
        assert problems(without) == [
            f"gateway sends traces to {endpoint}, but no network policy lets it reach port 4318"
        ]


def test_check_reads_manifests_and_ends_with_a_status(capsys):
    documents = yaml.safe_dump_all(build(K8S / "overlays" / "two-tier"))
    assert k8s(["check"], io.StringIO(documents)) == 1
    assert "persistentvolumeclaim/adasd-models is referred to but not there" in capsys.readouterr().out
    claim = ["--existing", "persistentvolumeclaim/adasd-models"]
    assert k8s(["check", *claim], io.StringIO(documents)) == 0
    assert k8s(["check"], io.StringIO("a: [")) == 2


def test_adasd_k8s_is_this_command(tmp_path, capsys):
    (tmp_path / "cluster.yaml").write_text("")
    words = ["--topology", str(tmp_path / "none.yaml"), "--cluster", str(tmp_path / "cluster.yaml")]
    assert main(["k8s", "render", *words]) == 2
    assert "adasd k8s render: cannot read the topology" in capsys.readouterr().err


def one_sentence(capsys, documents, *existing):
    """The output of ``adasd k8s check`` on these documents, and its status."""
    text = yaml.safe_dump_all(documents)
    status = k8s(["check", *(f"--existing={name}" for name in existing)], io.StringIO(text))
    return status, capsys.readouterr().out.strip().splitlines()


def test_an_overlay_with_a_missing_secret_is_one_sentence(capsys):
    present = needed("two-tier-tls") - {"secret/adasd-worker-tls"}
    status, said = one_sentence(capsys, built("two-tier-tls"), *present)
    assert status == 1
    assert said == [
        "✗ secret/adasd-worker-tls is referred to but not there; create it, or say --existing secret/adasd-worker-tls"
    ]


def test_a_topology_that_asks_for_what_no_group_offers_is_one_sentence(capsys):
    documents = copy.deepcopy(built("two-tier"))
    service = next(d for d in documents if d["kind"] == "RayService")["spec"]
    serve = yaml.safe_load(service["serveConfigV2"])
    serve["applications"][0]["args"]["target"]["accelerator_type"] = "H100"
    service["serveConfigV2"] = yaml.safe_dump(serve)
    status, said = one_sentence(capsys, documents, *needed("two-tier"))
    assert status == 1
    assert all(sentence.startswith("✗ target: 0 of") for sentence in said)
    assert all("accelerator_type:H100" in sentence for sentence in said)


def test_an_overlay_that_cannot_be_written_is_one_sentence(tmp_path, capsys):
    for name in ("topology.yaml", "cluster.yaml", "taken"):
        (tmp_path / name).write_text("")
    files = [f"--{name}={tmp_path / name}.yaml" for name in ("topology", "cluster")]
    assert k8s(["render", *files, f"--out={tmp_path / 'taken'}"]) == 2
    assert capsys.readouterr().err.startswith("adasd k8s render: cannot write the overlay to")


@pytest.mark.parametrize(
    "text",
    [
        "a: [unclosed",
        "Error: x",
        "words",
        "[1]",
        "kind: List",
        "kind: RayService\nmetadata: x",
        "{kind: 1, metadata: {}}",
    ],
)
def test_what_is_no_manifest_is_one_sentence(capsys, text):
    status = k8s(["check"], io.StringIO(text))
    assert status == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
