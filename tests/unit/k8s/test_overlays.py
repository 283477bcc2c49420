"""Every overlay equals its rendered topology, builds, and is valid for KubeRay and Kubernetes."""

from __future__ import annotations

import copy
import shutil
import subprocess

import pytest
import yaml
from ray.serve.schema import DeploymentSchema, ServeDeploySchema

from cluster.cards import card_bytes
from cluster.cli import k8s
from cluster.k8s import facts as cluster_facts
from cluster.k8s.manifests import Manifests
from cluster.k8s.memory import cards_of_facts, cards_of_manifests, memory_report
from cluster.k8s.relations import served_config
from cluster.k8s.render import render, topology_config
from tests.qwen import write_configs
from tests.unit.k8s.conftest import K8S, built, needed
from tests.unit.k8s.kustomize import BuildError, build
from tests.unit.k8s.schemas import complaints


def ray_service(documents):
    return next(d for d in documents if d["kind"] == "RayService")


def test_the_committed_files_are_what_the_topology_renders_to(overlay):
    folder = K8S / "overlays" / overlay
    rendered = render(folder / "topology.yaml", cluster_facts.read(folder / "cluster.yaml"), folder)
    inputs = {"topology.yaml", "cluster.yaml"}
    assert rendered.files == {f.name: f.read_text() for f in folder.iterdir() if f.name not in inputs}


def test_every_document_is_valid(manifests):
    assert {f"{d['kind']}/{d['metadata']['name']}": complaints(d) for d in manifests if complaints(d)} == {}


def test_the_serve_configuration_is_one(manifests):
    config = yaml.safe_load(ray_service(manifests)["spec"]["serveConfigV2"])
    ServeDeploySchema.model_validate(config)
    for deployment in config["applications"][0]["deployments"]:
        assert set(deployment) <= set(DeploymentSchema.model_fields)


def test_images_are_pinned_and_gpus_get_the_cuda_one(manifests):
    groups = ray_service(manifests)["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    for group in groups:
        image = group["template"]["spec"]["containers"][0]["image"]
        assert image == ("adasd-serve-cuda:0.1.0" if "GPU" in group["resources"] else "adasd-serve:0.1.0")


def test_two_tiers_scale_apart_and_the_draft_may_be_empty():
    groups = ray_service(built("two-tier"))["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    bounds = {g["groupName"]: (g["minReplicas"], g["maxReplicas"]) for g in groups}
    assert bounds == {"gateway": (2, 4), "target": (1, 4), "draft": (0, 4)}


def test_one_card_is_shared_by_one_group():
    groups = ray_service(built("single-gpu"))["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert [(g["groupName"], g["resources"].get("GPU")) for g in groups] == [("gateway", None), ("pair", "1")]


def test_keys_come_from_a_secret_and_stand_in_no_argument():
    documents = built("two-tier-tls")
    assert "secret/adasd-api-keys" in needed("two-tier-tls")
    config = yaml.safe_load(ray_service(documents)["spec"]["serveConfigV2"])
    assert config["applications"][0]["args"]["api_keys_file"] == "/etc/adasd/keys/keys.yaml"


def test_worker_links_are_encrypted_from_a_secret():
    documents = built("two-tier-tls")
    assert "secret/adasd-worker-tls" in needed("two-tier-tls")
    config = yaml.safe_load(ray_service(documents)["spec"]["serveConfigV2"])
    files = {"certificate": "tls.crt", "key": "tls.key", "ca": "ca.crt"}
    expected = {name: f"/etc/adasd/tls/{file}" for name, file in files.items()}
    assert config["applications"][0]["args"]["worker_tls"] == expected


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "rayClusterConfig", "headGroupSpecs"), {}),
        (("spec", "rayClusterConfig", "workerGroupSpecs", 0, "maxReplica"), 3),
        (("spec", "rayClusterConfig", "workerGroupSpecs", 0, "minReplicas"), "one"),
        (("spec", "rayClusterConfig", "autoscalerOptions", "version"), "v3"),
        (
            (
                *("spec", "rayClusterConfig", "workerGroupSpecs", 1, "template", "spec", "containers", 0),
                *("resources", "requests", "cpu"),
            ),
            "4x",
        ),
    ],
)
def test_a_planted_mistake_in_the_ray_service_is_refused(two_tier, path, value):
    service = ray_service(two_tier)
    assert complaints(service) == []
    node = service
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = value
    assert complaints(service)


@pytest.mark.parametrize(
    ("kind", "plant"),
    [
        ("Service", lambda spec: spec["ports"][0].update(targtPort=1)),
        ("NetworkPolicy", lambda spec: spec.update(ingres=[])),
        ("PodDisruptionBudget", lambda spec: spec.update(maxUnavailable=[1])),
    ],
)
def test_a_planted_mistake_in_a_core_kind_is_refused(two_tier, kind, plant):
    document = next(d for d in two_tier if d["kind"] == kind)
    plant(document["spec"])
    assert complaints(document)


def test_the_example_of_a_claim_and_its_filling_is_valid_and_fits_the_overlays():
    claim, job = yaml.safe_load_all((K8S / "models" / "claim.yaml").read_text())
    assert (complaints(claim), complaints(job)) == ([], [])
    (service,) = (d for d in built("two-tier") if d["kind"] == "RayService")
    assert f"claimName: {claim['metadata']['name']}" in yaml.safe_dump(service)
    pod = job["spec"]["template"]
    policies = [d["spec"] for d in built("two-tier") if d["kind"] == "NetworkPolicy"]
    ways_out = [p for p in policies if "Egress" in p["policyTypes"]]
    assert any(p["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items() for p in ways_out)
    program, *models = pod["spec"]["containers"][0]["command"][2:]
    compile(program, "job", "exec")
    args = yaml.safe_load((K8S / "overlays" / "two-tier" / "topology.yaml").read_text())
    wanted = {args[role]["model"] for role in ("target", "draft")}
    assert {f"/models/{model.rpartition('/')[2]}" for model in models} == wanted


def test_an_endpoint_picker_finds_its_label_on_the_gateways_alone(manifests):
    groups = ray_service(manifests)["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    labelled = {
        group["groupName"]
        for group in groups
        if group["template"]["metadata"]["labels"].get("llm-d.ai/engine-type") == "vllm"
    }
    assert labelled == {"gateway"}


def test_the_head_is_not_evicted(manifests):
    budgets = {d["metadata"]["name"]: d["spec"] for d in manifests if d["kind"] == "PodDisruptionBudget"}
    assert budgets["adasd-head"]["maxUnavailable"] == 0


class TestTheBuilder:
    def test_agrees_with_kubectl_where_there_is_one(self, overlay):
        kubectl = shutil.which("kubectl")
        text = (
            subprocess.run(
                [kubectl, "kustomize", K8S / "overlays" / overlay], capture_output=True, text=True, check=True
            ).stdout
            if kubectl
            else yaml.safe_dump_all(built(overlay))
        )
        assert by_name(yaml.safe_load_all(text)) == by_name(copy.deepcopy(built(overlay)))

    def test_refuses_what_it_does_not_know(self, tmp_path):
        (tmp_path / "kustomization.yaml").write_text("resources: []\nhelmCharts: []\n")
        with pytest.raises(BuildError, match="helmCharts"):
            build(tmp_path)

    def test_refuses_a_patch_that_hits_nothing(self, tmp_path):
        (tmp_path / "a.yaml").write_text("kind: A\nmetadata: {name: a}\n")
        patches = "patches: [{path: p.yaml, target: {kind: A, name: a}}]\n"
        (tmp_path / "kustomization.yaml").write_text(f"resources: [a.yaml]\n{patches}")
        (tmp_path / "p.yaml").write_text("[{op: replace, path: /spec, value: 1}]")
        with pytest.raises(BuildError, match="nothing"):
            build(tmp_path)


def by_name(documents):
    return {(d["kind"], d["metadata"]["name"]): d for d in documents}


def test_every_overlay_fits_its_cards(overlay, tmp_path):
    """Weights, cache and reserve; where no node selector names the card, one of 48 GB."""
    folder = K8S / "overlays" / overlay
    facts = cluster_facts.read(folder / "cluster.yaml")
    config = topology_config(folder / "topology.yaml", facts)
    cards = cards_of_facts(config, facts)
    cards = cards or {role: ("L40S", card_bytes("L40S")) for role in config.tiers}
    needs, found = memory_report(config, cards, write_configs(tmp_path))
    assert found == []
    assert len(needs) == (0 if overlay == "laptop" else 2)
    assert not any("not checked" in sentence for sentence in needs)


def test_the_check_of_manifests_says_what_a_card_does_not_hold(tmp_path):
    documents = copy.deepcopy(built("two-tier"))
    service = ray_service(documents)
    service["spec"]["serveConfigV2"] = service["spec"]["serveConfigV2"].replace(
        "num_slots: 12", "gpu_memory_utilization: 0.8"
    )
    manifests = Manifests(documents)
    config = served_config(manifests)
    (sentence,) = memory_report(config, cards_of_manifests(config, manifests), write_configs(tmp_path))[1]
    assert "target takes at least 63.1 GiB of NVIDIA-H100-80GB-HBM3" in sentence


def test_a_topology_too_large_for_its_cards_is_not_rendered(tmp_path, capsys):
    topology, cluster = (K8S / "overlays" / "two-tier" / name for name in ("topology.yaml", "cluster.yaml"))
    large = tmp_path / "topology.yaml"
    large.write_text(topology.read_text().replace("num_slots: 12", "gpu_memory_utilization: 0.8"))
    models = write_configs(tmp_path / "models")
    options = ["--cluster", str(cluster), "--out", str(tmp_path / "out"), "--models", str(models)]
    assert k8s.main(["render", "--topology", str(large), *options]) == 2
    assert "raise gpu_memory_utilization" in capsys.readouterr().err
    assert k8s.main(["render", "--topology", str(topology), *options]) == 0
    assert "GPU memory of target: 61.0 GiB weights" in capsys.readouterr().out
