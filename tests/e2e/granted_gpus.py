"""Deploys a replica of two ranks on a Ray cluster that claims two GPUs; prints what each rank was granted."""

from __future__ import annotations

import json
import logging
import os
import sys

from adasd.config import EngineConfig
from cluster import topology
from cluster.runtime import ray_cluster
from services.config import TierConfig
from services.worker.ranks import rank_options

PARALLEL = TierConfig(
    EngineConfig("a-large-model", device="cuda", tensor_parallel=2),
    num_cpus=0.5,
    num_gpus=2.0,
    label_selector={"pool": "target"},
)


def granted() -> dict[str, object]:
    """What Ray gave this process."""
    import ray

    return {"gpus": ray.get_gpu_ids(), "visible": os.environ.get("CUDA_VISIBLE_DEVICES")}


class Replica:
    """Rank 0; starts the other one as a worker does."""

    def __call__(self) -> dict[str, object]:
        import ray
        from ray.util import get_current_placement_group

        group = get_current_placement_group()
        other = ray.remote(**rank_options(PARALLEL, 1))(granted).remote()
        return {
            "ranks": [granted(), ray.get(other)],
            "bundles": group.bundle_specs if group is not None else None,
        }


def main(folder: str) -> None:
    os.environ.update(ray_cluster.SERVE_ENVIRONMENT)
    import ray
    from ray import serve

    ray.init(
        address="local",
        num_cpus=2,
        num_gpus=2,
        labels=dict(PARALLEL.label_selector),
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _temp_dir=folder,
        _node_ip_address="127.0.0.1",
    )
    try:
        options = {
            "ray_actor_options": topology.actor_options(PARALLEL),
            **topology.placement_group(PARALLEL),
        }
        deployed = serve.deployment(name="target", num_replicas=1, **options)
        handle = serve.run(deployed(Replica).bind(), route_prefix=None)
        print(json.dumps(handle.remote().result(timeout_s=60)), flush=True)
        serve.shutdown()
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
