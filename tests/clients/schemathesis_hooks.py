"""Loaded by schemathesis: half of its requests name our model, and answers are short."""

import itertools

import schemathesis

MAX_TOKENS = 4
turns = itertools.count()


@schemathesis.hook
def map_body(context, body):
    """An unknown model is a 404, so nothing else in the body would be tested."""
    if isinstance(body, dict):
        if isinstance(body.get("model"), str) and next(turns) % 4:
            body.pop("model")
        for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
            if type(body.get(name)) is int and body[name] > MAX_TOKENS:
                body[name] = MAX_TOKENS
        if ("messages" in body or "prompt" in body) and body.get("max_tokens") is None:
            body["max_tokens"] = MAX_TOKENS
        if "input" in body and body.get("max_output_tokens") is None:
            body["max_output_tokens"] = MAX_TOKENS
    return body


@schemathesis.hook
def before_call(context, case, kwargs):
    """A request that runs out of the time it gave itself is a 504, as it should be."""
    if isinstance(case.body, dict):
        case.body.pop("timeout_s", None)
