"""The playground: its page at ``/`` and its files under ``/playground``. They hold no data and need no key."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles

FILES = "/playground"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
"""Only this server's own files and answers, no inline code, and no text that becomes HTML."""
HEADERS = {
    "Cache-Control": "no-cache",  # ask each time: files of two versions do not fit together
    "X-Content-Type-Options": "nosniff",
}


class PageFiles(StaticFiles):
    """The files beside the page."""

    def file_response(self, *about: Any, **more: Any) -> Response:
        response = super().file_response(*about, **more)
        response.headers.update(HEADERS)
        return response


def add_playground(app: FastAPI) -> None:
    """Serve the page and its files."""
    page = files("services.gateway").joinpath("playground", "index.html").read_text(encoding="utf-8")
    headers = HEADERS | {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer"}

    @app.get("/", include_in_schema=False)
    async def playground() -> HTMLResponse:
        return HTMLResponse(page, headers=headers)

    app.mount(FILES, PageFiles(packages=[("services.gateway", "playground")]))
