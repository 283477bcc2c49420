"""Mistakes that no schema finds: each planted one is reported, by the sentence that names it."""

from __future__ import annotations

import copy
import re

import pytest
import yaml

from cluster.k8s.relations import problems
from tests.unit.k8s.conftest import built, needed

NEEDED = needed("two-tier-tls")


class Planted:
    """The two-tier build, split into its parts."""

    def __init__(self, documents):
        self.documents = documents
        self.spec = self.document("RayService")["spec"]
        self.cluster = self.spec["rayClusterConfig"]
        self.groups = {g["groupName"]: g for g in self.cluster["workerGroupSpecs"]}
        self.serve = yaml.safe_load(self.spec["serveConfigV2"])
        self.app = self.serve["applications"][0]

    def document(self, kind, name=None):
        return next(d for d in self.documents if d["kind"] == kind and name in (None, d["metadata"]["name"]))

    def pod(self, group):
        return self.groups[group]["template"]["spec"]

    def ray(self, group):
        return self.pod(group)["containers"][0]

    def problems(self):
        self.spec["serveConfigV2"] = yaml.safe_dump(self.serve)
        return problems(self.documents, NEEDED)


def named(items, name):
    return next(item for item in items if item["name"] == name)


def drop(items, name):
    items.remove(named(items, name))


MISTAKES = {
    "a selector that no group carries": (
        lambda p: p.app["args"]["draft"].update(label_selector={"pool": "drafts"}),
        "draft: 0 of 4 replicas .*pool=drafts",
    ),
    "a group with another label": (
        lambda p: p.groups["target"]["labels"].update(pool="large"),
        "target: 0 of 1 replicas",
    ),
    "a group that does not grow as far as its tier": (
        lambda p: p.groups["target"].update(maxReplicas=3),
        r"target: 3 of 4 replicas \(max\)",
    ),
    "a group that starts smaller than its tier": (
        lambda p: p.groups["target"].update(minReplicas=0, replicas=0),
        r"target: 0 of 1 replicas \(min\)",
    ),
    "more gateways than gateway pods": (
        lambda p: p.groups["gateway"].update(maxReplicas=2),
        "orchestrator: 2 of 4 replicas",
    ),
    "fewer orchestrators in the settings than run": (
        lambda p: p.app["args"].pop("orchestrator"),
        "up to 4 replicas run, but orchestrator.replicas in serveConfigV2.args is 1",
    ),
    "gateway pods without an orchestrator": (
        lambda p: p.groups["gateway"].update(minReplicas=3, replicas=3),
        "orchestrator: 3 pods for it always run, but it runs in only 2",
    ),
    "a pod without the card its tier needs": (
        lambda p: p.groups["draft"]["resources"].pop("GPU"),
        "draft: 0 of 4",
    ),
    "bounds upside down": (
        lambda p: p.groups["draft"].update(minReplicas=5),
        "group draft: minReplicas 5",
    ),
    "replicas on the head": (
        lambda p: p.cluster["headGroupSpec"]["resources"].update(CPU="2"),
        "land on the head",
    ),
    "an answer that outlasts the drain": (
        lambda p: p.app["args"].update(request_timeout_s=900),
        "target drains for 615 s, but an answer may take 900 s",
    ),
    "a drain that outlasts the grace": (
        lambda p: p.pod("target").update(terminationGracePeriodSeconds=600),
        "target: drain 615 s < preStop hook 630 s < terminationGracePeriodSeconds 600",
    ),
    "no hook": (lambda p: p.ray("draft").pop("lifecycle"), "draft has no preStop hook"),
    "a replaced cluster that dies early": (
        lambda p: p.spec.update(rayClusterDeletionDelaySeconds=60),
        "rayClusterDeletionDelaySeconds is 60",
    ),
    "a deployment that the application lacks": (
        lambda p: named(p.app["deployments"], "draft").update(name="drafter"),
        "no deployment 'drafter'; the application has draft, metrics, orchestrator, target",
    ),
    "an application that is not there": (
        lambda p: p.app.update(import_path="cluster.entry:application"),
        "no application cluster.entry:application",
    ),
    "a setting that does not exist": (
        lambda p: p.app["args"]["target"].update(num_slot=3),
        "no setting 'target.num_slot'; did you mean 'target.num_slots'",
    ),
    "a service for pods that are not there": (
        lambda p: p.document("Service")["spec"]["selector"].update({"app.kubernetes.io/component": "door"}),
        "service adasd selects no pod",
    ),
    "a service to a port that nobody has": (
        lambda p: p.document("Service")["spec"]["ports"][1].update(targetPort=9001),
        "gateway has no port 9001",
    ),
    "an application that listens elsewhere": (
        lambda p: p.app["args"].update(grpc_port=9002),
        "grpc is 9000, but the application listens on 9002",
    ),
    "an application on loopback": (lambda p: p.app["args"].pop("host"), "listens on loopback only"),
    "a policy that keeps clients out": (
        lambda p: p.document("NetworkPolicy", "adasd-gateway")["spec"]["ingress"][0]["ports"].pop(),
        "no network policy lets clients reach gateway on 9000",
    ),
    "an open dashboard": (
        lambda p: p.document("NetworkPolicy", "adasd-head")["spec"]["ingress"][0].pop("from"),
        r"opens Ray's dashboard \(8265\) of head to everybody",
    ),
    "open worker ports": (
        lambda p: p.document("NetworkPolicy", "adasd-inside")["spec"]["ingress"][0].pop("from"),
        "opens the worker ports of target to everybody",
    ),
    "pods that no policy fences": (
        lambda p: p.groups["draft"]["template"]["metadata"]["labels"].update({"app.kubernetes.io/name": "x"}),
        "no network policy selects draft",
    ),
    "a budget for nobody": (
        lambda p: p.document("PodDisruptionBudget", "adasd-draft")["spec"]["selector"]["matchLabels"].update(
            {"app.kubernetes.io/component": "drafts"}
        ),
        "PodDisruptionBudget adasd-draft selects no pod",
    ),
    "a probe of a port that is not there": (
        lambda p: p.ray("gateway")["readinessProbe"]["httpGet"].update(port=8001),
        "readinessProbe asks port 8001",
    ),
    "traffic before it is ready": (lambda p: p.ray("gateway").pop("readinessProbe"), "no readinessProbe"),
    "a missing secret": (
        lambda p: named(p.pod("draft")["volumes"], "api-keys")["secret"].update(secretName="keys"),
        "secret/keys is referred to but not there",
    ),
    "a missing account": (
        lambda p: p.pod("draft").update(serviceAccountName="admin"),
        "serviceaccount/admin is referred to",
    ),
    "keys that one group lacks": (
        lambda p: drop(p.ray("target")["volumeMounts"], "api-keys"),
        "api_keys_file is /etc/adasd/keys/keys.yaml, where target has nothing mounted",
    ),
    "certificates that one group lacks": (
        lambda p: drop(p.ray("gateway")["volumeMounts"], "worker-tls"),
        "worker_tls.key is /etc/adasd/tls/tls.key, where gateway has nothing mounted",
    ),
    "a mount of no volume": (
        lambda p: drop(p.pod("draft")["volumes"], "api-keys"),
        "draft/ray-worker mounts api-keys, which is no volume",
    ),
    "a key in an argument": (
        lambda p: p.ray("target").update(args=["adasd", "serve", "--api-key=sk-hunter2"]),
        "target/ray-worker has the argument --api-key, ",
    ),
    "a key in a shell's line": (
        lambda p: p.ray("gateway").update(
            command=["sh", "-c", "export ADASD_API_KEYS=me=hunter2; exec adasd"]
        ),
        "gateway/ray-worker has the argument ADASD_API_KEYS, ",
    ),
    "root": (lambda p: p.pod("target").pop("securityContext"), "target may run as root"),
    "a file system to write on": (
        lambda p: p.ray("target")["securityContext"].pop("readOnlyRootFilesystem"),
        "target/ray-worker writes to its root",
    ),
    "a secret in the open": (
        lambda p: p.ray("gateway")["env"].append({"name": "ADASD_API_KEYS", "value": "me=hunter2"}),
        "ADASD_API_KEYS in the open",
    ),
    "Ray without our variables": (
        lambda p: drop(p.ray("draft")["env"], "RAY_SERVE_USE_GRPC_BY_DEFAULT"),
        "draft: RAY_SERVE_USE_GRPC_BY_DEFAULT is None",
    ),
    "traces to a port that cannot be": (
        lambda p: p.ray("draft")["env"].append(
            {"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://c:99999"}
        ),
        "draft sends traces to http://c:99999, which is no address",
    ),
    "another Ray": (lambda p: p.cluster.update(rayVersion="2.59.0"), "rayVersion is 2.59.0"),
    "a misspelt upgrade": (
        lambda p: p.spec["upgradeStrategy"].update(type="newCluster"),
        "upgradeStrategy.type is 'newCluster'",
    ),
}


def test_everything_fits_together(manifests, overlay):
    assert problems(manifests, needed(overlay)) == []


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_planted_mistake_is_noticed(two_tier, mistake):
    plant, sentence = MISTAKES[mistake]
    planted = Planted(two_tier)
    plant(planted)
    found = planted.problems()
    assert any(re.search(sentence, problem) for problem in found), found


def test_what_the_cluster_has_to_have_is_named(two_tier):
    found = problems(two_tier)
    assert len(found) == 3
    assert all("create it, or say --existing secret/adasd-" in sentence for sentence in found)


def test_without_a_ray_service_there_is_nothing_to_check():
    assert problems([]) == ["there are 0 RayServices, expected one"]


@pytest.mark.parametrize(
    ("most", "said"), [(1, []), (2, ["target: up to 2 replicas share pods with the orchestrators"])]
)
def test_a_tier_that_adds_gateway_pods_without_an_orchestrator_is_noticed(most, said):
    planted = Planted(copy.deepcopy(built("laptop")))
    planted.groups["gateway"]["maxReplicas"] = most
    planted.app["args"]["target"]["max_replicas"] = most
    planted.spec["serveConfigV2"] = yaml.safe_dump(planted.serve)
    found = problems(planted.documents, needed("laptop"))
    assert [sentence.partition(", of")[0] for sentence in found] == said
