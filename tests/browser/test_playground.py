"""The playground as a person uses it, in a real browser."""

from __future__ import annotations

import hashlib
import json
import shlex
import subprocess

import pytest

from services.config import ApiKey
from services.example_prompts import DEMO
from services.gateway.auth.key_ring import KeyRing
from tests.browser.conftest import Site, Tab

pytestmark = [pytest.mark.browser, pytest.mark.timeout(60)]
FUNCTION, STORY, *_ = DEMO
KEY = "sk-browser-0123456789"

MARKDOWN = """# Potatoes

Three **good** ways, _said_ `plainly`:

1. Boil them
   - with salt
   - for *20 minutes*
2. Bake them

```python
def cook(n): return n * "potato <b>"
```

| way | minutes |
|---|--:|
| boil | 20 |

> See https://example.org/a?b=1, or [this](https://example.org/x) and [that](javascript:alert(1)).
"""


def tokens_of(answer) -> list[tuple[str, str]]:
    """(origin, text) of every coloured piece."""
    spans = answer.locator(".prose .t").all()
    return [(span.get_attribute("class").split()[1], span.text_content()) for span in spans]


def test_an_example_is_answered_and_every_word_says_where_it_came_from(tab: Tab):
    tab.picture("1-start")
    tab.page.click(f".example >> text={FUNCTION}")
    tab.page.locator("#send").wait_for()
    answer = tab.page.locator(".answer")
    assert answer.locator("pre code").inner_text().startswith("def linear(")
    kinds = {kind for kind, _ in tokens_of(answer)}
    assert "exact" in kinds
    assert kinds <= {"exact", "correction", "bonus", "target"}
    assert "tokens/s" in answer.locator(".figures").inner_text()
    assert answer.locator(".note").is_hidden()
    tab.ask(STORY)
    tab.picture("2-chat")


def test_the_strip_adds_up_to_the_server_s_own_counts(tab: Tab):
    with tab.page.expect_response("**/v1/chat/completions") as waiting:
        answer = tab.ask(STORY)
    report = json.loads(waiting.value.text().split("data: ")[-2])
    own, spec = report["metrics"]["adasd"], report["metrics"]["speculative_decoding"]
    count = {kind: answer.locator(f".strip i.{kind}").count() for kind in own["tokens"]}
    assert count == own["tokens"]
    assert answer.locator(".strip i.rejected").count() == spec["num_draft_tokens"] - sum(
        own["accepted_per_round"]
    )
    assert f"accepted {spec['num_accepted_draft_tokens']} of {spec['num_draft_tokens']}" in (
        answer.locator(".strip").get_attribute("aria-label")
    )
    answer.locator(".round").nth(1).hover()
    assert answer.locator(".prose .lit").count() >= 1


def test_only_relaxed_tokens_can_be_shown(tab: Tab):
    tab.page.select_option("#mode", "adaptive")
    answer = tab.ask(STORY)
    relaxed = answer.locator(".prose .t.relaxed").first
    exact = answer.locator(".prose .t.exact").first
    colour = "getComputedStyle(e).backgroundColor"
    before = relaxed.evaluate(f"e => {colour}")
    tab.page.check("input[value=relaxed]")
    assert relaxed.evaluate(f"e => {colour}") == before
    assert exact.evaluate(f"e => {colour}") == "rgba(0, 0, 0, 0)"
    tab.picture("3-relaxed-only")


def test_a_later_message_carries_the_conversation_and_the_system_prompt(tab: Tab):
    tab.page.fill("#system", "Be brief.")
    tab.page.fill("#max", "12")
    said = tab.ask(FUNCTION).locator(".prose").inner_text()
    with tab.page.expect_request("**/v1/chat/completions") as asked:
        tab.ask("And now in one line?")
    roles = [(m["role"], m["content"]) for m in asked.value.post_data_json["messages"]]
    assert roles[0] == ("system", "Be brief.")
    assert roles[1] == ("user", FUNCTION)
    assert roles[2][0] == "assistant"
    assert said.split()[0] in roles[2][1]
    assert roles[3] == ("user", "And now in one line?")
    assert "Cut after 12 tokens" in tab.page.locator(".note").last.inner_text()


def test_a_reload_keeps_chat_and_settings_until_they_are_cleared(tab: Tab, pair):
    page = tab.page
    page.fill("#system", "Be brief.")
    page.fill("#max", "12")
    page.select_option("#mode", "exact")
    page.check("input[value=relaxed]")
    tab.ask(FUNCTION)
    page.fill("#prompt", "hang")
    page.press("#prompt", "Enter")
    page.locator("#stop").wait_for()
    page.fill("#prompt", "half a message")
    shown = "all => all.map((e) => [e.querySelector('.prose, .said')?.innerHTML, e.querySelector('.strip')?.ariaLabel])"
    before = page.locator(".turn .answer").first.evaluate_all(shown)
    page.reload()
    page.locator(".turn").nth(1).wait_for()
    assert page.locator(".turn .answer").first.evaluate_all(shown) == before
    assert page.locator(".said:visible").all_inner_texts() == [FUNCTION, "hang"]
    assert page.locator(".turn .note").last.inner_text() == "Stopped."
    assert page.locator(".more").first.is_visible()
    assert page.input_value("#prompt") == "half a message"
    assert [page.input_value(f"#{name}") for name in ("system", "max", "mode")] == [
        "Be brief.",
        "12",
        "exact",
    ]
    assert page.is_checked("input[value=relaxed]")
    with page.expect_request("**/v1/chat/completions") as asked:
        tab.ask("And now in one line?")
    body = asked.value.post_data_json
    assert [m["role"] for m in body["messages"]] == ["system", "user", "assistant", "user"]  # not what hung
    assert (body["max_tokens"], body["speculation"]) == (12, {"mode": "exact"})
    page.locator(".turn").first.locator("text=Copy as curl").click()
    page.locator("text=Copied").wait_for()
    command = page.evaluate("navigator.clipboard.readText()")
    assert json.loads(shlex.split(command)[-1])["messages"][-1]["content"] == FUNCTION
    page.click("#forget")
    page.reload()
    page.locator("#chat-start .example").first.wait_for()
    assert page.locator(".turn").count() == 0
    assert [page.input_value(f"#{name}") for name in ("system", "max", "mode")] == ["", "256", ""]
    assert "Be brief" not in page.evaluate("JSON.stringify(sessionStorage) + JSON.stringify(localStorage)")


def test_a_chat_too_long_for_the_browser_s_store_says_so_and_goes_on(tab: Tab):
    tab.page.evaluate(
        "void (Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError'); })"
    )
    tab.page.fill("#max", "4")
    tab.ask(FUNCTION)
    assert tab.status() == "This chat will not survive a reload."
    tab.ask(FUNCTION)
    assert tab.page.locator(".answer").count() == 2


def test_markdown_is_drawn_and_nothing_in_it_runs(tab: Tab, site: Site, pair):
    pair.says = MARKDOWN
    try:
        answer = tab.ask("Potatoes?")
    finally:
        pair.says = None
    prose = answer.locator(".prose")
    assert prose.locator("h3").inner_text() == "Potatoes"
    assert [prose.locator(name).inner_text() for name in ("strong", "em >> nth=0", "p > code")] == [
        "good",
        "said",
        "plainly",
    ]
    assert prose.locator("ol > li").count() == 2
    assert prose.locator("ol > li ul > li").all_inner_texts() == ["with salt", "for 20 minutes"]
    assert prose.locator("pre code").inner_text() == 'def cook(n): return n * "potato <b>"'
    assert prose.locator("td").all_inner_texts() == ["boil", "20"]
    assert prose.locator("a").evaluate_all("all => all.map(a => a.href)") == [
        "https://example.org/a?b=1",
        "https://example.org/x",
        "",
    ]
    assert prose.locator("b, script, img").count() == 0
    coloured = "".join(text for _, text in tokens_of(answer))
    assert "".join(coloured.split()) == "".join(prose.evaluate("e => e.textContent").split()).replace(
        "python", ""
    )
    tab.picture("4-markdown")


@pytest.mark.parametrize(
    "source",
    [
        "*" * 20_000,
        "*a " * 7_000,
        "[" * 20_000,
        "> " * 10_000,
        "`a" * 10_000,
        "- " * 2_000 + "x",
        "<img src=x onerror=alert(1)><script>alert(1)</script>",
        "a\u00a0🙂 **b🙂c** `🙂`",
    ],
    ids=["stars", "openers", "brackets", "quotes", "ticks", "lists", "tags", "emoji"],
)
def test_odd_markdown_keeps_its_text_and_takes_no_time(tab: Tab, source: str):
    drawn, took_ms = tab.page.evaluate(
        """async (source) => {
            const { draw } = await import("./playground/markdown.js");
            const box = document.createElement("div"), begun = performance.now();
            const runs = draw(box, source);
            const isTrue = runs.every(({ node, start }) => source.startsWith(node.data, start));
            return [isTrue && !box.querySelector("script, img"), performance.now() - begun];
        }""",
        source,
    )
    assert drawn
    assert took_ms < 3000  # quadratic work on these would take minutes


def test_three_modes_race_side_by_side(tab: Tab):
    tab.page.click("#tab-race")
    tab.page.fill("#prompt", STORY)
    tab.page.press("#prompt", "Enter")
    tab.page.locator("#race-result:not(:empty)").wait_for()
    lanes = tab.page.locator(".lane")
    assert lanes.locator("h3").all_inner_texts() == ["off", "exact", "adaptive"]
    off, exact, _ = (text.strip() for text in lanes.locator(".prose").all_inner_texts())
    assert off == exact
    assert len(off) > 40
    assert "exact wrote the same as off" in tab.page.inner_text("#race-result")
    boxes = [lanes.nth(i).bounding_box() for i in range(3)]
    assert boxes[0]["y"] == boxes[1]["y"] == boxes[2]["y"]
    assert boxes[0]["x"] < boxes[1]["x"] < boxes[2]["x"]
    tab.picture("5-race")


def test_stop_keeps_what_has_come_and_frees_the_server(tab: Tab, pair):
    tab.page.fill("#prompt", "hang")
    tab.page.press("#prompt", "Enter")
    tab.page.locator("#stop").wait_for()
    tab.page.keyboard.press("Escape")
    tab.page.locator("#send").wait_for()
    assert tab.status() == "Stopped."
    tab.ask(FUNCTION)
    assert tab.status() == "Done."
    assert not pair.num_running


def test_an_answer_is_copied_as_text_and_as_a_command_that_works(tab: Tab):
    tab.page.fill("#max", "20")
    answer = tab.ask("It's a test, isn't it?")
    answer.locator("text=Copy >> nth=0").click()
    answer.locator("text=Copied").wait_for()
    copied = tab.page.evaluate("navigator.clipboard.readText()")
    assert "".join(copied.split()) in "".join(answer.locator(".prose").inner_text().split())
    answer.locator("text=Copy as curl").click()
    answer.locator("text=Copied").last.wait_for()
    words = shlex.split(tab.page.evaluate("navigator.clipboard.readText()"))
    assert words[0] == "curl"
    body = json.loads(words[-1])
    assert body["messages"][0]["content"] == "It's a test, isn't it?"
    done = subprocess.run(["curl", "-sS", *words[1:]], capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout.endswith("data: [DONE]\n\n")


# --------------------------------------------------------------------------- errors, in words


def proxy_error(route):
    route.fulfill(status=502, content_type="text/html", body="<h1>Bad Gateway</h1>")


def cut_off(route):
    token = {"id": 1, "kind": "target", "text": "Half"}
    piece = {
        "choices": [
            {"index": 0, "delta": {"content": "Half"}, "finish_reason": None, "adasd": {"tokens": [token]}}
        ]
    }
    route.fulfill(status=200, content_type="text/event-stream", body=f"data: {json.dumps(piece)}\n\n")


@pytest.mark.parametrize(
    ("prompt", "fault", "words"),
    [
        ("break " * 12, None, "target worker was lost"),
        ("overload", None, "The server is full; try again in 3 s"),
        ("word " * 5000, None, "The context is full"),
        ("Hello", proxy_error, "got no answer from it (502)"),
        ("Hello", cut_off, "connection to the server was lost"),
        ("Hello", lambda route: route.abort(), "No server answers at"),
    ],
    ids=["broken", "overloaded", "context", "502", "lost", "down"],
)
def test_a_failure_is_told_in_words_and_the_next_message_works(tab: Tab, prompt, fault, words):
    if fault:
        tab.page.route("**/v1/chat/completions", fault)
    answer = tab.ask(prompt)
    assert words in tab.status()
    assert words in answer.locator(".note").inner_text()
    if "lost" in words or "(502)" in words:
        tab.picture(f"6-error-{'502' if '502' in words else 'lost'}")
    tab.problems[:] = [
        text for text in tab.problems if "Failed to load resource" not in text
    ]  # the browser's own line
    tab.page.unroute("**/v1/chat/completions")
    with tab.page.expect_request("**/v1/chat/completions") as asked:
        tab.ask(FUNCTION)
    assert [m["content"] for m in asked.value.post_data_json["messages"]] == [FUNCTION]  # not what failed
    assert tab.status() == "Done."


def test_a_server_with_keys_asks_for_one_and_says_when_it_is_wrong(browser, pair):
    ring = KeyRing((ApiKey("anna", hashlib.sha256(KEY.encode()).hexdigest()),))
    with Site(pair, ring) as site:
        context = browser.new_context(viewport={"width": 1280, "height": 860})
        tab = Tab(context.new_page())
        tab.page.goto(site.url)
        tab.page.locator("#key").wait_for()
        assert "asks for an API key" in tab.status()
        for key, words in (("sk-wrong", "does not know this API key"), (KEY, "")):
            tab.page.fill("#key", key)
            tab.page.press("#key", "Tab")
            tab.page.wait_for_function(
                "words => document.querySelector('#status').innerText.includes(words)", arg=words
            )
        tab.page.locator(".example").first.wait_for()
        tab.page.fill("#max", "8")
        assert tokens_of(tab.ask(FUNCTION))
        stored = "JSON.stringify(sessionStorage) + JSON.stringify(localStorage) + document.cookie"
        tab.page.reload()
        tab.page.locator("#key:visible").wait_for()
        assert KEY not in tab.page.evaluate(stored)  # nobody asked for it
        assert tab.page.input_value("#key") == ""
        assert tab.page.locator(".turn").count() == 1  # the chat stays without the key
        tab.page.fill("#key", KEY)
        tab.page.check("#keep-key")
        tab.page.reload()
        assert tab.page.input_value("#key") == KEY
        assert tokens_of(tab.ask(FUNCTION))
        tab.page.click("#forget")
        tab.page.reload()
        assert KEY not in tab.page.evaluate(stored)
        context.close()


# --------------------------------------------------------------------------- every screen, every reader


@pytest.mark.parametrize(
    ("name", "width", "scheme"),
    [("phone", 360, "light"), ("phone-dark", 360, "dark"), ("desktop-dark", 1280, "dark")],
)
def test_pages_fit_phones_and_dark_rooms(browser, site: Site, name: str, width: int, scheme: str):
    context = browser.new_context(viewport={"width": width, "height": 780}, color_scheme=scheme)
    tab = Tab(context.new_page())
    tab.page.goto(site.url)
    tab.page.locator(".example").first.wait_for()
    tab.picture(f"7-{name}-start")
    tab.ask(FUNCTION)
    tab.picture(f"7-{name}-chat")
    tab.page.click("#tab-race")
    tab.page.fill("#prompt", STORY)
    tab.page.press("#prompt", "Enter")
    tab.page.locator("#race-result:not(:empty)").wait_for()
    tab.picture(f"7-{name}-race")
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.problems == []
    context.close()


CONTRAST = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const ground = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] === 1) return c; } return [255, 255, 255]; };
  const linear = (v) => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = (c) => c.slice(0, 3).map((v) => linear(v / 255))
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const bad = [];
  for (const e of document.querySelectorAll("body *")) {
    if (![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) || !e.checkVisibility()) continue;
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(ground(e))].sort((x, y) => y - x);
    if ((a + .05) / (b + .05) < 4.5) bad.push(`${e.tagName}.${e.className}: ${((a + .05) / (b + .05)).toFixed(2)}`);
  }
  return bad;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out_and_every_control_has_a_name(tab: Tab, scheme: str):
    tab.page.emulate_media(color_scheme=scheme)
    tab.page.select_option("#mode", "adaptive")
    tab.ask(STORY)
    assert tab.page.evaluate(CONTRAST) == []  # WCAG AA: 4.5 to 1
    controls = tab.page.locator("button:visible, input:visible, select:visible, textarea:visible")
    names = controls.evaluate_all(
        """all => all.map((e) => e.getAttribute("aria-label") || e.textContent.trim()
               || [...e.labels].map((label) => label.textContent.trim()).join(" "))"""
    )
    assert all(names)


def test_everything_can_be_done_with_keys(tab: Tab):
    page = tab.page
    focused = "document.activeElement.id"
    assert page.evaluate(focused) == "prompt"
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    assert page.input_value("#prompt") == "one\ntwo"
    page.focus("#tab-chat")
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused) == "tab-race"
    assert page.get_attribute("#tab-race", "aria-selected") == "true"
    page.keyboard.press("ArrowLeft")
    seen = set()
    for _ in range(24):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.id || document.activeElement.className"))
    assert {
        "prompt",
        "send",
        "new",
        "mode",
        "temperature",
        "seed",
        "max",
        "system",
        "example",
        "theme",
    } <= seen


def test_the_page_s_own_switch_wins_over_the_system(tab: Tab):
    ground = "getComputedStyle(document.body).backgroundColor"
    light = tab.page.evaluate(ground)
    tab.page.click("#theme")
    assert tab.page.evaluate(ground) == light
    tab.page.click("#theme")
    assert tab.page.evaluate(ground) != light
    tab.page.reload()
    assert tab.page.evaluate(ground) != light
