"""Reads the pages that evaluations, plans and load tests write."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any


def charts_of(page: str) -> list[dict[str, Any]]:
    """What each chart of a page draws."""
    return [
        json.loads(text) for text in re.findall(r"<script type='application/json'>(.*?)</script>", page, re.S)
    ]


def fetched_by(page: str) -> list[str]:
    """Everything that a browser would fetch for the page, from its tags and styles."""
    found = re.findall(r"(?:url\(|@import)[^)\n;]*", "".join(re.findall(r"<style>(.*?)</style>", page, re.S)))

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.extend(value or "" for name, value in attrs if name in ("src", "href"))

    Tags().feed(page)
    return found
