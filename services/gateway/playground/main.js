// The page: settings, the chat, the race, and what the keys do.

import { AnswerView, make } from "./answer.js";
import { Failure, Server } from "./api.js";
import { asCurl } from "./curl.js";
import { forget, keep, kept, theme as keptTheme } from "./kept.js";
import { race, result } from "./race.js";

const $ = (id) => document.getElementById(id);
const server = new Server(() => $("key").value.trim());
const SETTINGS = ["mode", "temperature", "seed", "max", "system"];
const chat = []; // [{user, view, isKept, system, options}]: what was asked, its answer, and whether both go into the next request
let model = null, needsKey = false, running = null, tab = "chat", isLeft = false;

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
  $("key-field").hidden = $("keep-key-field").hidden = false;
  $("settings").open = true;
  $("key").focus();
  say(had ? error.message : "This server asks for an API key.", true);
}

function say(text, isBad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", isBad);
}

// --------------------------------------------------------------------------- requests

function options(mode) {
  const request = {
    stream: true, stream_options: { include_usage: true }, return_token_provenance: true,
    speculation: mode ? { mode } : {},
  };
  const numbers = { temperature: "temperature", max_tokens: "max", seed: "seed" };
  for (const [name, field] of Object.entries(numbers)) if ($(field).value !== "") request[name] = Number($(field).value);
  return request;
}

function messages(system, list) {
  return [...system ? [{ role: "system", content: system }] : [], ...list];
}

// The request of a turn: the chat before it without what failed, and its own message.
function request(turn) {
  const before = chat.slice(0, chat.indexOf(turn)).filter(({ isKept }) => isKept).flatMap(({ user, view }) => [
    { role: "user", content: user }, { role: "assistant", content: view.text },
  ]);
  return { messages: messages(turn.system, [...before, { role: "user", content: turn.user }]), ...turn.options };
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
    remember();
  }
}

// --------------------------------------------------------------------------- the chat

function ask(text) {
  return answer(append({ user: text, view: null, isKept: false }));
}

function append(turn) {
  const said = make("p", "said");
  said.textContent = turn.user;
  turn.node = make("div", "turn");
  turn.node.append(said);
  chat.push(turn);
  $("turns").append(turn.node);
  $("chat-start").hidden = true;
  return turn;
}

const title = (turn) => `Answer ${chat.indexOf(turn) + 1}`;

function answer(turn) {
  turn.view?.node.remove();
  turn.view = new AnswerView(title(turn));
  turn.isKept = false;
  turn.node.append(turn.view.node);
  turn.system = $("system").value.trim();
  turn.options = options($("mode").value);
  turn.node.scrollIntoView({ block: "end" });
  say("Waiting for the first token …");
  return run(async (signal) => {
    turn.view.asked();
    try {
      await server.answer(request(turn), signal, (chunk) => {
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
    actions(turn);
    if (!turn.view.firstMs) turn.view.node.classList.add("nothing");
    turn.node.scrollIntoView({ block: "end" });
  });
}

function actions(turn) {
  const row = make("div", "actions");
  row.append(
    button("Copy", (self) => copy(self, turn.view.text)),
    button("Copy as curl", (self) => copy(self, asCurl(request(turn), needsKey))),
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
      const lanes = await race(server, (mode) => ({
        messages: messages($("system").value.trim(), [{ role: "user", content: text }]), ...options(mode),
      }), {
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
addEventListener("pagehide", () => { remember(); isLeft = true; });
addEventListener("pageshow", () => { isLeft = false; }); // the browser may bring a page back as it was

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

$("new").addEventListener("click", clear);
$("forget").addEventListener("click", () => {
  clear();
  $("options").reset();
  $("key").value = "";
  document.querySelector("input[name=colours][value=all]").click();
  forget();
  say("Chat, settings and key are cleared.");
});

function clear() {
  running?.abort();
  chat.splice(0);
  $("turns").replaceChildren();
  $("chat-start").hidden = false;
  $("lanes").hidden = $("race-prompt").hidden = true;
  $("race-start").hidden = false;
  $("race-result").textContent = "";
  say("");
  $("prompt").focus();
  remember();
}

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
  keptTheme.set(next);
  theme(next);
});
theme(keptTheme.get() in THEMES ? keptTheme.get() : "auto");

// --------------------------------------------------------------------------- reloads

function remember() {
  if (isLeft) return; // what the end of the page broke is no failure of the server
  const settings = Object.fromEntries(SETTINGS.map((name) => [name, $(name).value]));
  const turns = chat.filter(({ view }) => view).map(({ user, view, isKept, system, options }) => {
    const state = view.state, isCut = view.node.getAttribute("aria-busy") !== null;
    if (isCut) state.note = ["Stopped.", false];
    return { user, isKept: isKept || isCut && view.text !== "", system, options, state };
  });
  const colours = document.body.dataset.colours, key = $("keep-key").checked ? $("key").value : null;
  if (!keep({ settings, colours, key, message: $("prompt").value, turns })) say("This chat will not survive a reload.");
}

function restore({ settings, colours, key, message, turns }) {
  for (const name of SETTINGS) $(name).value = settings[name];
  document.querySelector(`input[name=colours][value=${colours}]`).click();
  $("prompt").value = message;
  if (key !== null) {
    $("key").value = key;
    $("keep-key").checked = true;
    $("key-field").hidden = $("keep-key-field").hidden = false;
    needsKey = true;
  }
  for (const { state, ...rest } of turns) {
    const turn = append(rest);
    turn.view = AnswerView.from(title(turn), state);
    turn.node.append(turn.view.node);
    actions(turn);
  }
}

if (kept()) restore(kept());

$("settings").open = matchMedia("(min-width: 60rem)").matches;
show("chat");
meet();
