"""What ``adasd serve`` prints once it serves: where the page is, and requests to paste that the pair can answer."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from pathlib import Path

from services.config import ServeConfig
from services.example_prompts import examples_of

MAX_TOKENS = 200


def welcome(config: ServeConfig) -> str:
    """Addresses and first requests, ready to paste."""
    where, secret = url(config), ' -H "Authorization: Bearer $ADASD_API_KEY"' if config.api_keys else ""
    message = {"role": "user", "content": examples_of(config.target.engine.model)[0]}
    body = json.dumps({"model": config.model_name, "messages": [message], "max_tokens": MAX_TOKENS})
    flag = "" if where == "http://127.0.0.1:8000" else f" --url {where}"
    grpc = f"\n  gRPC        {host_of(config)}:{config.grpc_port}" if config.grpc_port else ""
    return (
        f"\nServing {config.model_name}. Ctrl-C stops it.\n\n"
        f"  Playground  {where}/\n"
        f"  API         {where}/v1{grpc}\n\n"
        f"  {own_command()} chat{flag}\n"
        f"  curl {where}/v1/chat/completions -H 'Content-Type: application/json'{secret} -d {shlex.quote(body)}\n"
    )


def url(config: ServeConfig) -> str:
    """Where this machine reaches the HTTP server."""
    return f"{'https' if config.tls.is_on else 'http'}://{host_of(config)}:{config.port}"


def host_of(config: ServeConfig) -> str:
    """The host that it listens on; this machine, if it listens on all addresses. IPv6 in brackets."""
    host = "127.0.0.1" if config.host in ("0.0.0.0", "::", "") else config.host
    return f"[{host}]" if ":" in host else host


def own_command() -> str:
    """What to type for ``adasd`` in this shell: its name if that is found, else the way it was started."""
    if shutil.which("adasd"):
        return "adasd"
    started = Path(sys.argv[0]).absolute()
    if started.name != "adasd":
        return f"{shlex.quote(sys.executable)} -m cluster.cli"
    here = Path.cwd()
    return shlex.quote(str(started.relative_to(here) if started.is_relative_to(here) else started))
