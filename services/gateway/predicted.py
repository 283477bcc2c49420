"""Predicted outputs: a text that the caller expects as the answer becomes what look-ups draft from."""

from __future__ import annotations

from dataclasses import replace

from adasd.control.draft_sources import LOOKUPS, SUFFIX
from adasd.errors import InvalidRequest
from adasd.requests import GenerationRequest, Mode
from services.gateway.backend import Backend
from services.gateway.prompts import check_chars


def with_prediction(
    request: GenerationRequest, text: str | None, backend: Backend, where: str
) -> GenerationRequest:
    """The request with a predicted text; unchanged without one, or if nothing is drafted (mode ``off``).

    Blocking: tokenises. Raises InvalidRequest if the request names a draft source that reads no prediction, and
    ContextTooLong, both naming the field ``where``.
    """
    if text is None:
        return request
    check_chars(len(text), backend, where)
    draft = request.speculation.draft or SUFFIX
    if draft not in LOOKUPS:
        raise InvalidRequest(
            f"a prediction is drafted from by {' or '.join(LOOKUPS)}, but speculation.draft is {draft!r}; "
            "leave one of them out",
            "prediction",
        )
    speculation = replace(request.speculation, draft=draft)
    if Mode.OFF in (request.speculation.mode, backend.effective(speculation).mode):
        return request
    ids = backend.tokenizer.encode(text, add_special_tokens=False)
    return replace(request, speculation=speculation, prediction=ids[: backend.context_len])
