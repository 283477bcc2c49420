"""A rehearsal uses the overlay's own configuration, nodes, labels and resources."""

from __future__ import annotations

import pytest
import yaml

from adasd.errors import ConfigError
from load_tests.demo_prompts import examples
from load_tests.load.answers import Ask, Outcome, Reply
from load_tests.rehearsal import DEMO, TWO_TIER, complaints, main, on_this_machine, shape_of
from tests.unit.k8s.kustomize import build

QUESTION = examples(1)[0]


@pytest.fixture(scope="module")
def shape():
    return shape_of(TWO_TIER / "topology.yaml", TWO_TIER / "cluster.yaml")


@pytest.fixture(scope="module")
def manifest():
    return next(d for d in build(TWO_TIER) if d["kind"] == "RayService")["spec"]


def test_the_configuration_is_the_committed_manifest_s(shape, manifest):
    assert shape.serve == yaml.safe_load(manifest["serveConfigV2"])


def test_every_group_has_its_nodes_with_its_labels_and_resources(shape, manifest):
    groups = {g["groupName"]: g for g in manifest["rayClusterConfig"]["workerGroupSpecs"]}
    assert {pod.group for pod in shape.pods} == set(groups)
    for name, group in groups.items():
        pods = [pod for pod in shape.pods if pod.group == name]
        assert len(pods) == max(1, group["minReplicas"])
        assert all((pod.labels, pod.resources) == (group["labels"], group["resources"]) for pod in pods)
    assert len({pod.ip for pod in shape.pods} | {"127.0.0.1"}) == len(shape.pods) + 1
    assert shape.head_resources == manifest["rayClusterConfig"]["headGroupSpec"]["resources"]


def test_pods_keep_their_environment_but_not_their_home(shape):
    assert shape.environment["RAY_SERVE_USE_GRPC_BY_DEFAULT"] == "1"
    assert not {"HOME", "POD_IP"} & set(shape.environment)


def test_nothing_is_replaced_but_weights_device_ports_and_patience(shape):
    played = on_this_machine(shape.serve, 8001, 9001)
    args, own = played["applications"][0]["args"], shape.args
    changed = {key for key in args if args[key] != own.get(key)}
    assert changed == {"target", "draft", "port", "grpc_port", "admission_timeout_s"}
    for role in ("target", "draft"):
        assert {k for k in own[role] if args[role].get(k) != own[role][k]} == {"model", "device", "num_gpus"}
        assert args[role]["model"] == str(DEMO / role)
    assert own["port"] == 8000, "the manifest itself stays as it is"


def test_replicas_reserve_what_the_manifest_s_reserve(shape):
    played = on_this_machine(shape.serve, 8001, 9001)["applications"][0]["deployments"]
    for now, own in zip(played, shape.serve["applications"][0]["deployments"], strict=True):
        options = now.get("ray_actor_options", {})
        if now["name"] in ("target", "draft"):
            assert (options["num_gpus"], options["num_cpus"]) == (1, 2)
            assert options["label_selector"] == {"pool": now["name"]}
            assert {**own, "ray_actor_options": options} == now
        else:
            assert now == own


def test_files_of_a_secret_cannot_be_rehearsed(capsys):
    folder = TWO_TIER.parent / "two-tier-tls"
    with pytest.raises(ConfigError, match="api_keys_file, whose files come from a Secret"):
        shape_of(folder / "topology.yaml", folder / "cluster.yaml")
    assert main(["--topology", str(folder / "topology.yaml")]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_a_shape_that_is_too_large_for_one_machine_says_so(tmp_path):
    (tmp_path / "topology.yaml").write_text("target: {min_replicas: 20, max_replicas: 20, num_gpus: 1}\n")
    (tmp_path / "cluster.yaml").write_text("pods: {target: {memory: 8Gi}}\n")
    with pytest.raises(ConfigError, match="begins with 21 pods; a rehearsal has room for 8"):
        shape_of(tmp_path / "topology.yaml", tmp_path / "cluster.yaml")


def answer(outcome=Outcome.DONE, door="http", text=QUESTION.answer, error=None):
    made = Reply(Ask("chat", (("user", QUESTION.prompt),), example=QUESTION), door, 0.0, 0.0)
    made.outcome, made.text, made.error = outcome, text, error
    return made


def test_a_good_rehearsal_has_nothing_to_complain_about():
    assert list(complaints("now", [answer(), answer(door="grpc")])) == []


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([answer(), answer(door="grpc"), answer(Outcome.FAILED, error="503")], "1 of 3 requests failed now"),
        ([answer(), answer(door="grpc"), answer(Outcome.OVERLOADED)], "1 of 3 requests failed now"),
        ([answer()], "nothing was answered over grpc now"),
        ([answer(), answer(door="grpc", text="other")], "got different texts now"),
        ([answer(text="x"), answer(door="grpc", text="x")], "2 of 2 answers now are wrong"),
    ],
)
def test_what_must_not_be_is_said(answers, said):
    assert any(said in sentence for sentence in complaints("now", answers))
