"""The deployment graph, built without a cluster."""

from __future__ import annotations

from dataclasses import replace

from ray.serve import Application, Deployment

from adasd.config import EngineConfig
from cluster.app import BACKLOG, OTHER_REQUESTS, build, scaling
from services.config import OrchestratorConfig, ServeConfig, TierConfig

TIER = TierConfig(EngineConfig("model", num_slots=10), num_gpus=0.5, label_selector=(("pool", "draft"),))
CONFIG = ServeConfig(target=TIER, draft=TIER, max_ongoing_requests=3, max_queued_requests=4)


def deployment(app: Application) -> Deployment:
    return app._bound_deployment


def tiers(config: ServeConfig) -> tuple[Deployment, dict[str, Deployment]]:
    """The target and the drafts by source, as the orchestrator gets them."""
    _, target, drafts, *_ = deployment(build(config)).init_args
    return deployment(target), {source: deployment(app) for source, app in drafts.items()}


def test_a_tier_is_placed_as_wished_and_takes_as_many_sessions_as_it_has_slots():
    draft = tiers(CONFIG)[1]["model"]
    assert draft.name == "draft"
    assert draft.num_replicas == 1
    assert draft.max_ongoing_requests == 10
    assert draft.ray_actor_options["num_gpus"] == 0.5
    assert draft.ray_actor_options["label_selector"] == {"pool": "draft"}
    assert draft.init_args[:3] == ("draft", TIER, "127.0.0.1")


def test_the_orchestrator_refuses_by_itself_before_serve_makes_it_wait():
    orchestrator = deployment(build(CONFIG))
    assert orchestrator.max_ongoing_requests == 3 + 4 + OTHER_REQUESTS
    assert orchestrator.max_queued_requests == BACKLOG
    assert orchestrator.init_args[0] is CONFIG


def test_a_target_takes_those_that_wait_so_that_a_free_slot_is_given_on_at_once():
    assert tiers(CONFIG)[0].max_ongoing_requests == 10 + 2
    assert tiers(replace(CONFIG, max_queued_requests=0))[0].max_ongoing_requests == 10


def test_by_default_one_may_wait_for_every_eight_that_run():
    def queue_len(replicas: int, **fields: int) -> int:
        target = replace(TIER, max_replicas=replicas)
        return replace(CONFIG, target=target, max_queued_requests=None, **fields).queue_len

    assert [queue_len(replicas, max_ongoing_requests=64) for replicas in (1, 2, 20)] == [2, 3, 8]
    two = replace(CONFIG, max_queued_requests=None, max_ongoing_requests=64)
    assert replace(two, orchestrator=OrchestratorConfig(replicas=2)).queue_len == 1
    assert CONFIG.queue_len == 4
    assert replace(CONFIG, max_queued_requests=0).queue_len == 0


def test_no_more_requests_are_taken_than_could_ever_have_a_slot_or_a_place():
    many = replace(CONFIG, max_ongoing_requests=64)
    assert CONFIG.most_requests == 3 + 4
    assert many.most_requests == 10 + 4
    assert replace(many, target=replace(TIER, max_replicas=20)).most_requests == 64 + 4


def test_without_a_draft_there_is_no_draft_deployment():
    target, drafts = tiers(replace(CONFIG, draft=None))
    assert target.name == "target"
    assert drafts == {}


def test_every_draft_model_is_a_deployment_of_its_own():
    small = replace(TIER, min_replicas=2, max_replicas=2)
    _, drafts = tiers(replace(CONFIG, drafts=(("tiny", small),)))
    assert {source: draft.name for source, draft in drafts.items()} == {
        "model": "draft",
        "tiny": "draft-tiny",
    }
    assert drafts["tiny"].num_replicas == 2
    assert drafts["tiny"].init_args[:2] == ("draft", small)


def test_bounds_that_differ_mean_autoscaling_by_our_policy():
    bounds = scaling("draft", replace(TIER, min_replicas=0, max_replicas=3))["autoscaling_config"]
    assert (bounds["min_replicas"], bounds["max_replicas"]) == (0, 3)
    assert bounds["policy"]["policy_kwargs"]["role"] == "draft"
    draft = tiers(replace(CONFIG, draft=replace(TIER, max_replicas=2)))[1]["model"]
    assert draft._deployment_config.autoscaling_config.max_replicas == 2
    assert scaling("draft", replace(TIER, min_replicas=2, max_replicas=2)) == {"num_replicas": 2}
