"""The playground: its page at ``/`` and its files under ``/playground``. They hold no data and need no key."""

from __future__ import annotations

from importlib.resources import files

from fastapi import FastAPI
from starlette.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

FILES = "/playground"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
"""Only this server's own files and answers, no inline code, and no text that becomes HTML."""
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def add_playground(app: FastAPI) -> None:
    """Serve the page and its files; browsers ask each time whether a file has changed."""
    page = (files("services.gateway.playground") / "index.html").read_text(encoding="utf-8")

    @app.get("/", include_in_schema=False)
    async def playground() -> HTMLResponse:
        return HTMLResponse(page, headers=HEADERS | {"Cache-Control": "no-cache"})

    app.mount(FILES, StaticFiles(packages=[("services.gateway", "playground")]))
