"""A real browser before a real gateway with the demo pair; pictures of the pages are kept in build/screenshots."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.gateway.auth.key_ring import KeyRing
from services.gateway.http.routes import create_app
from tests.browser.pair_backend import PairBackend
from tests.unit.gateway.conftest import serving

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "build" / "screenshots"
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
WITHIN_MS = 20_000.0


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Debian's Chromium, driven by Playwright. Without it the tests fail: a page nobody has opened is not tested."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.fail("these tests need a browser: apt-get install chromium, then make browser-check")
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        pytest.fail("these tests need Playwright: make browser-check installs it")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=FLAGS.split())
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def pair() -> PairBackend:
    return PairBackend.load()


class Site:
    """A gateway in a thread of its own; ``ring`` decides who may call."""

    def __init__(self, backend: PairBackend, ring: KeyRing | None = None) -> None:
        self._backend, self._ring = backend, ring
        self._ended, self._ready = asyncio.Event(), threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with serving(create_app(self._backend, keys=self._ring)) as self.url:
            self._ready.set()
            await self._ended.wait()

    def __enter__(self) -> Site:
        self._thread.start()
        assert self._ready.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(20)
        assert not self._thread.is_alive()


@pytest.fixture(scope="session")
def site(pair: PairBackend) -> Iterator[Site]:
    with Site(pair) as started:
        yield started


class Tab:
    """One page of a browser: what went wrong in it, and pictures of it."""

    def __init__(self, page: Any) -> None:
        self.page, self.problems = page, []
        page.set_default_timeout(WITHIN_MS)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("console", lambda line: self.problems.append(line.text) if line.type == "error" else None)

    def ask(self, text: str) -> Any:
        """Send a message; returns the element of its answer once it has ended."""
        self.page.fill("#prompt", text)
        self.page.press("#prompt", "Enter")
        self.page.locator("#send").wait_for()
        return self.page.locator(".answer").last

    def picture(self, name: str) -> None:
        PICTURES.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=PICTURES / f"{name}.png")

    def status(self) -> str:
        return self.page.inner_text("#status")


@pytest.fixture
def tab(browser: Any, site: Site) -> Iterator[Tab]:
    """The playground as a desktop shows it; the test fails if the page logs an error that it did not expect."""
    context = browser.new_context(viewport={"width": 1280, "height": 860}, permissions=["clipboard-read"])
    opened = Tab(context.new_page())
    opened.page.goto(site.url)
    opened.page.locator("#chat-start .example").first.wait_for()
    yield opened
    context.close()
    assert opened.problems == []
