"""instructor: objects by a tool and by a schema, whole and streamed."""

from __future__ import annotations

import instructor
import instructor.core
import openai
import pytest

from tests.clients.frameworks.flow import KEY, MODEL, QUESTION, TOM, TOO_LONG, Cat, base_url

ASKED = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], "max_retries": 0}

for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
    client = instructor.from_openai(openai.OpenAI(base_url=base_url(), api_key=KEY, max_retries=0), mode=mode)
    whole = client.chat.completions.create(**ASKED, response_model=Cat)
    assert whole.model_dump() == TOM.model_dump()
    *_, last = client.chat.completions.create_partial(**ASKED, response_model=Cat)
    assert last.model_dump() == TOM.model_dump()
    with pytest.raises(instructor.core.InstructorError, match="maximum context length"):
        client.chat.completions.create(
            **{**ASKED, "messages": [{"role": "user", "content": TOO_LONG}]}, response_model=Cat
        )
