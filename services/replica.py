"""The name of this process in the deployment."""

from __future__ import annotations


def replica_name() -> str:
    """Serve's name of this replica; empty in Serve's local testing mode."""
    from ray import serve
    from ray.serve.exceptions import RayServeException

    try:
        return str(serve.get_replica_context().replica_id.unique_id)
    except RayServeException:
        return ""
