// The page: settings, the chat, the race, and what the keys do.

import { AnswerView, make } from "./answer.js";
import { Failure, Server } from "./api.js";
import { asCurl } from "./curl.js";
import { race, result } from "./race.js";

const $ = (id) => document.getElementById(id);
const server = new Server(() => $("key").value.trim());
const chat = []; // [{user, view, isKept}]: what was asked, its answer, and whether both go into the next request
let model = null, needsKey = false, running = null, tab = "chat";

// --------------------------------------------------------------------------- the server

async function meet() {
  try {
    model = await server.model();
    const { draft } = model.adasd;
    $("pair").textContent = [model.id, draft && draft !== "draft" && `drafted by ${draft}`].filter(Boolean).join(", ");
    $("pair").title = [`target ${model.adasd.target}`, draft && `draft ${draft}`,
      `context ${model.max_model_len} tokens`].filter(Boolean).join(", ");
    for (const list of document.querySelectorAll(".examples")) list.replaceChildren(...model.adasd.examples.map(example));
    if (!running) say("");
  } catch (error) {
    $("pair").textContent = error.kind === "down" ? "no server" : "";
    explain(error);
  }
}

function example(text) {
  const item = make("li"), button = make("button", "example");
  button.type = "button";
  button.textContent = text;
  button.addEventListener("click", () => {
    $("prompt").value = text;
    grow();
    $("form").requestSubmit();
  });
  item.append(button);
  return item;
}

function explain(error) {
  if (!(error instanceof Failure)) throw error;
  if (error.kind !== "key") { say(error.message, true); return; }
  const had = $("key").value !== "";
  needsKey = true;
  $("key-field").hidden = false;
  $("settings").open = true;
  $("key").focus();
  say(had ? error.message : "This server asks for an API key.", true);
}

function say(text, isBad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", isBad);
}

// --------------------------------------------------------------------------- requests

function body(messages, mode) {
  const system = $("system").value.trim();
  const request = {
    messages: [...system ? [{ role: "system", content: system }] : [], ...messages],
    stream: true, stream_options: { include_usage: true }, return_token_provenance: true,
    speculation: mode ? { mode } : {},
  };
  const numbers = { temperature: "temperature", max_tokens: "max", seed: "seed" };
  for (const [name, field] of Object.entries(numbers)) if ($(field).value !== "") request[name] = Number($(field).value);
  return request;
}

// The messages of a chat up to and without `turn`; turns that failed are left out.
function history(turn) {
  return chat.slice(0, chat.indexOf(turn)).filter(({ isKept }) => isKept).flatMap(({ user, view }) => [
    { role: "user", content: user }, { role: "assistant", content: view.text },
  ]);
}

async function run(work) {
  running = new AbortController();
  document.body.classList.add("running");
  $("send").hidden = true;
  $("stop").hidden = false;
  try {
    await work(running.signal);
  } finally {
    running = null;
    document.body.classList.remove("running");
    $("send").hidden = false;
    $("stop").hidden = true;
  }
}

// --------------------------------------------------------------------------- the chat

function ask(text) {
  const turn = { user: text, view: null, isKept: false, node: make("div", "turn") };
  const said = make("p", "said");
  said.textContent = text;
  turn.node.append(said);
  chat.push(turn);
  $("turns").append(turn.node);
  $("chat-start").hidden = true;
  return answer(turn);
}

function answer(turn) {
  turn.view?.node.remove();
  turn.view = new AnswerView(`Answer ${chat.indexOf(turn) + 1}`);
  turn.isKept = false;
  turn.node.append(turn.view.node);
  const request = body([...history(turn), { role: "user", content: turn.user }], $("mode").value);
  turn.node.scrollIntoView({ block: "end" });
  say("Waiting for the first token …");
  return run(async (signal) => {
    turn.view.asked();
    try {
      await server.answer(request, signal, (chunk) => {
        const isNear = innerHeight + scrollY > document.body.scrollHeight - 120;
        if (turn.view.firstMs === null) say("Answering …");
        turn.view.take(chunk);
        if (isNear) requestAnimationFrame(() => scrollTo(0, document.body.scrollHeight));
      });
      turn.isKept = true;
      turn.view.end(model?.max_model_len ?? Infinity);
      say(turn.view.note.hidden ? "Done." : turn.view.note.textContent);
    } catch (error) {
      turn.view.draw();
      if (error.name === "AbortError") {
        turn.isKept = turn.view.text !== "";
        turn.view.say("Stopped.");
        say("Stopped.");
      } else {
        explain(error);
        turn.view.say(error.message, true);
      }
    }
    actions(turn, request);
    if (!turn.view.firstMs) turn.view.node.classList.add("nothing");
    turn.node.scrollIntoView({ block: "end" });
  });
}

function actions(turn, request) {
  const row = make("div", "actions");
  row.append(
    button("Copy", (self) => copy(self, turn.view.text)),
    button("Copy as curl", (self) => copy(self, asCurl(request, needsKey))),
    button("Ask again", () => {
      if (running) return;
      while (chat.at(-1) !== turn) chat.pop().node.remove(); // what followed built on the old answer
      answer(turn);
    }),
  );
  turn.view.node.append(row);
}

function button(text, act) {
  const made = make("button", "quiet");
  made.type = "button";
  made.textContent = text;
  made.addEventListener("click", () => act(made));
  return made;
}

async function copy(self, text) {
  const before = self.textContent;
  try {
    await navigator.clipboard.writeText(text);
    self.textContent = "Copied";
  } catch { // without HTTPS, browsers lend no clipboard
    const field = make("textarea", "hidden");
    field.value = text;
    document.body.append(field);
    field.select();
    self.textContent = document.execCommand("copy") ? "Copied" : "The browser forbids it";
    field.remove();
    self.focus();
  }
  setTimeout(() => { self.textContent = before; }, 1500);
}

// --------------------------------------------------------------------------- the race

function startRace(text) {
  $("race-start").hidden = true;
  $("race-prompt").hidden = false;
  $("race-prompt").textContent = text;
  $("race-result").textContent = "";
  say("Racing …");
  return run(async (signal) => {
    try {
      const lanes = await race(server, (mode) => body([{ role: "user", content: text }], mode), {
        box: $("lanes"), inTurn: $("in-turn").checked, signal, contextLen: model?.max_model_len ?? Infinity,
      });
      $("race-result").textContent = result(lanes);
      $("race-prompt").scrollIntoView({ block: "center" });
      const failed = lanes.find((lane) => lane.failure);
      if (failed) explain(failed.failure);
      else say("Done.");
    } catch (error) {
      if (error.name !== "AbortError") throw error;
      say("Stopped.");
    }
  });
}

// --------------------------------------------------------------------------- the page

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("prompt").value.trim();
  if (running || !text) return;
  if (!$("options").reportValidity()) return;
  $("prompt").value = "";
  grow();
  (tab === "chat" ? ask : startRace)(text);
});

$("options").addEventListener("submit", (event) => event.preventDefault());
$("stop").addEventListener("click", () => { running?.abort(); $("prompt").focus(); });
$("key").addEventListener("change", meet);

$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("form").requestSubmit();
  }
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape") running?.abort(); });
$("prompt").addEventListener("input", grow);

function grow() {
  const field = $("prompt");
  field.style.height = "auto";
  field.style.height = `${Math.min(field.scrollHeight + 2, 240)}px`;
}

$("new").addEventListener("click", () => {
  running?.abort();
  chat.splice(0);
  $("turns").replaceChildren();
  $("chat-start").hidden = false;
  $("lanes").hidden = $("race-prompt").hidden = true;
  $("race-start").hidden = false;
  $("race-result").textContent = "";
  say("");
  $("prompt").focus();
});

function show(name) {
  tab = name;
  for (const one of ["chat", "race"]) {
    $(one).hidden = one !== name;
    $(`tab-${one}`).setAttribute("aria-selected", String(one === name));
    $(`tab-${one}`).tabIndex = one === name ? 0 : -1;
  }
  $("mode-field").hidden = name === "race";
  document.body.classList.toggle("racing", name === "race");
  $("send").textContent = name === "race" ? "Race" : "Send";
}
for (const name of ["chat", "race"]) {
  $(`tab-${name}`).addEventListener("click", () => { if (!running) show(name); });
  $(`tab-${name}`).addEventListener("keydown", (event) => {
    if (running || !["ArrowLeft", "ArrowRight"].includes(event.key)) return;
    show(name === "chat" ? "race" : "chat");
    $(`tab-${tab}`).focus();
  });
}

for (const choice of document.querySelectorAll("input[name=colours]")) {
  choice.addEventListener("change", () => { document.body.dataset.colours = choice.value; });
}
document.body.dataset.colours = document.querySelector("input[name=colours]:checked").value;

const THEMES = { auto: "as the system", light: "light", dark: "dark" };
function theme(name) {
  document.documentElement.dataset.theme = name;
  $("theme").setAttribute("aria-label", `Colours of the page: ${THEMES[name]}`);
  $("theme").title = $("theme").getAttribute("aria-label");
  $("theme").textContent = { auto: "◐", light: "☀", dark: "☾" }[name];
}
$("theme").addEventListener("click", () => {
  const names = Object.keys(THEMES), next = names[(names.indexOf(document.documentElement.dataset.theme) + 1) % names.length];
  localStorage.setItem("theme", next);
  theme(next);
});
theme(localStorage.getItem("theme") in THEMES ? localStorage.getItem("theme") : "auto");

$("settings").open = matchMedia("(min-width: 60rem)").matches;
show("chat");
meet();
