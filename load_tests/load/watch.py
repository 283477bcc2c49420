"""Samples the service once per second during a run, and detects when it is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import aiohttp

from adasd.errors import AdasdError
from load_tests.load.scrape import Scrape, sample

PERIOD_S = 1.0
GONE_AFTER_S = 5.0
SILENT_FOR_S = 60.0


class ServerGone(AdasdError):
    """The server under test no longer answers, or never did."""


class Watch:
    """Samples over a run. ``run`` raises ServerGone if the server did not answer for ``patience_s`` seconds."""

    def __init__(
        self, url: str, api_key: str | None, now: Callable[[], float], patience_s: float = GONE_AFTER_S
    ) -> None:
        self._url, self._now, self._patience_s = url, now, patience_s
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self.samples: list[Scrape] = []

    async def run(self) -> None:
        """Sample until cancelled."""
        last_s = self._now()
        async with self._session() as session:
            while True:
                begun_s = self._now()
                try:
                    await self._look(session)
                    last_s = self._now()
                except (aiohttp.ClientConnectionError, TimeoutError) as error:
                    limit_s = SILENT_FOR_S if isinstance(error, TimeoutError) else self._patience_s
                    if self._now() - last_s > limit_s:
                        raise ServerGone(
                            f"the server at {self._url} stopped answering {last_s:.0f} s after the start of the "
                            f"run ({str(error) or type(error).__name__})"
                        ) from error
                await asyncio.sleep(max(0.0, begun_s + PERIOD_S - self._now()))

    async def once(self) -> Scrape | None:
        """One sample, not added to the series; None if the server shows no figures."""
        async with self._session() as session:
            return await self._fetch(session)

    async def _look(self, session: aiohttp.ClientSession) -> None:
        seen = await self._fetch(session)
        if seen is not None:
            self.samples.append(seen)

    async def _fetch(self, session: aiohttp.ClientSession) -> Scrape | None:
        async with session.get(f"{self._url}/metrics") as response:
            text = await response.text()
            return sample(text, self._now()) if response.status == 200 else None

    def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(headers=self._headers, timeout=aiohttp.ClientTimeout(total=10.0))
