"""OpenAI's predicted outputs: a text that the caller expects as the answer becomes what look-ups draft from."""

from __future__ import annotations

from dataclasses import replace

from adasd.control.draft_sources import LOOKUPS, SUFFIX
from adasd.errors import InvalidRequest
from adasd.requests import GenerationRequest, Mode
from adasd.text.chat import plain_content
from services.gateway.backend import Backend
from services.gateway.http.schema import GenerationBody
from services.gateway.prompts import check_chars

WHERE = "prediction.content"


def with_prediction(request: GenerationRequest, body: GenerationBody, backend: Backend) -> GenerationRequest:
    """The request with the body's prediction; unchanged without one, or if nothing is drafted (mode ``off``).

    Blocking: tokenises. Raises InvalidRequest if the request names a draft source that reads no prediction.
    """
    if body.prediction is None:
        return request
    text = plain_content(body.prediction.content, WHERE, joint="")
    check_chars(len(text), backend, WHERE)
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
