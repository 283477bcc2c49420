// One answer on the page: its text with coloured tokens, the strip of its rounds, its figures, and what went wrong.

import { blocks } from "./markdown.js";
import { DRAFTED, drawStrip, KINDS, rounds, summary } from "./rounds.js";

export class AnswerView {
  /** `compact`: without buttons, as in a race. */
  constructor(title) {
    this.tokens = [];
    this.text = "";
    this.report = null;
    this.finish = null;
    this.firstMs = this.lastMs = this.askedMs = null;
    this.numSteps = 0;
    this.node = make("article", "answer");
    this.node.setAttribute("aria-label", title);
    this.node.setAttribute("aria-busy", "true");
    this.prose = make("div", "prose");
    this.note = make("p", "note");
    this.note.hidden = true;
    this.strip = make("div", "strip");
    this.strip.setAttribute("role", "img");
    this.strip.tabIndex = 0;
    this.strip.hidden = true;
    this.figures = make("p", "figures");
    this.more = make("details", "more");
    this.more.hidden = true;
    this.node.append(this.prose, this.note, this.strip, this.figures, this.more);
    this.strip.addEventListener("pointerover", ({ target }) => this.#light(target.closest(".round")?.dataset.round));
    this.strip.addEventListener("pointerleave", () => this.#light(undefined));
    this.drawn = [];
    this.isDue = false;
    this.round = -1;
    this.isOpen = false;
  }

  /** An answer as it was before a reload. */
  static from(title, { tokens, note, ...rest }) {
    const view = new AnswerView(title);
    Object.assign(view, rest);
    for (const [kind, text, round] of tokens) {
      view.tokens.push({ kind, text, start: view.text.length, round });
      view.text += text;
      view.round = round;
    }
    view.draw();
    view.#details();
    if (note) view.say(...note);
    view.node.removeAttribute("aria-busy");
    return view;
  }

  /** All that `from` needs, as plain values. */
  get state() {
    const { report, finish, numSteps, firstMs, lastMs, askedMs } = this;
    const note = this.note.hidden ? null : [this.note.textContent, this.note.classList.contains("bad")];
    return {
      tokens: this.tokens.map(({ kind, text, round }) => [kind, text, round]), note,
      report, finish, numSteps, firstMs, lastMs, askedMs,
    };
  }

  /** The clock starts. */
  asked() {
    this.askedMs = performance.now();
  }

  /** Take one chunk of the stream. */
  take(chunk) {
    if (!chunk.choices.length) {
      this.report = chunk;
      return;
    }
    const [choice] = chunk.choices;
    this.lastMs = performance.now();
    this.firstMs ??= this.lastMs;
    this.numSteps += 1;
    this.finish = choice.finish_reason ?? this.finish;
    for (const { id, kind, text } of choice.adasd.tokens) {
      if (!this.isOpen) this.round += 1;
      this.isOpen = DRAFTED.has(kind);
      this.tokens.push({ id, kind, text, start: this.text.length, round: this.round });
      this.text += text;
    }
    if (!this.isDue) {
      this.isDue = true;
      requestAnimationFrame(() => { if (this.isDue) this.draw(); });
    }
  }

  /** Show all that came. */
  draw() {
    this.isDue = false;
    const now = blocks(this.text);
    now.forEach((block, index) => {
      const old = this.drawn[index], isLast = index === now.length - 1;
      if (old && !old.isLast && !isLast && old.start === block.start && old.end === block.end) return;
      const runs = [], node = block.draw(runs);
      this.#colour(runs);
      if (old) old.node.replaceWith(node);
      else this.prose.append(node);
      this.drawn[index] = { start: block.start, end: block.end, isLast, node };
    });
    while (this.drawn.length > now.length) this.drawn.pop().node.remove();
    const found = rounds(this.tokens, this.report?.metrics?.adasd.drafted_per_round);
    drawStrip(this.strip, found);
    this.strip.hidden = !found.length;
    this.strip.setAttribute("aria-label", summary(found));
    this.figures.textContent = this.line().join(" · ");
  }

  /** The stream is over; `contextLen` is the model's, in tokens. */
  end(contextLen) {
    this.node.removeAttribute("aria-busy");
    this.draw();
    const cut = this.#whyCut(contextLen);
    if (cut) this.say(cut);
    this.#details();
  }

  /** Say what went wrong or was cut, below the text. */
  say(sentence, isBad = false) {
    this.node.removeAttribute("aria-busy");
    this.note.textContent = sentence;
    this.note.classList.toggle("bad", isBad);
    this.note.hidden = false;
  }

  /** Tokens per second after the first one; null before there is a second step. */
  get rate() {
    const ms = this.lastMs - this.firstMs;
    return this.numSteps > 1 && ms > 0 ? 1000 * (this.tokens.length - 1) / ms : null;
  }

  /** The short figures, in words. */
  line() {
    if (this.firstMs === null) return [];
    const parts = [count(this.tokens.length, "token")];
    if (this.rate) parts.push(`${whole(this.rate)} tokens/s`);
    const spec = this.report?.metrics?.speculative_decoding, own = this.report?.metrics?.adasd;
    if (this.tokens.length) parts.push(`${(this.tokens.length / (this.round + 1)).toFixed(2)} per pass of the target`);
    if (spec) parts.push(`${whole(100 * spec.draft_acceptance_rate)} % of ${spec.num_draft_tokens} drafted accepted`);
    if (own?.tokens.relaxed) parts.push(`${own.tokens.relaxed} relaxed`);
    return parts;
  }

  #whyCut(contextLen) {
    const { usage } = this.report ?? {};
    switch (this.finish) {
      case "length":
        return usage && usage.prompt_tokens + usage.completion_tokens >= contextLen
          ? `Cut: the context of ${contextLen} tokens is full. Begin a new chat.`
          : `Cut after ${count(this.tokens.length, "token")}, the limit in the settings.`;
      case "timeout": return "Cut: the server’s time for one answer is over.";
      case "cancelled": return "Cut: the server stopped this answer.";
      case "error": return "Cut: the server failed on this answer.";
      default: return this.tokens.length ? null : "The answer is empty.";
    }
  }

  #details() {
    if (!this.report) return;
    const { speculation, metrics, usage } = this.report, own = metrics.adasd;
    const rows = [
      ["Mode", speculation.mode],
      ["Drafting", speculation.mode === "off" ? null : speculation.drafting],
      ["Acceptance", speculation.acceptance],
      ["Drafts used", own.drafts_used.join(", ")],
      ["Prompt", count(usage.prompt_tokens, "token")],
      ["First token", `${whole(this.firstMs - this.askedMs)} ms`],
      ["Written as", KINDS.filter((kind) => own.tokens[kind]).map((kind) => `${own.tokens[kind]} ${kind}`).join(", ")],
      ["Generation threshold", own.generation_threshold && `${own.generation_threshold.toFixed(3)} nats`],
      ["Acceptance threshold", own.acceptance_threshold && `JS distance ${own.acceptance_threshold.toFixed(3)}`],
      ["Distortion", own.distortion ? own.distortion.toFixed(3) : null],
      ["Draft, verify, network", [own.draft_ms, own.verify_ms, own.network_ms].map(whole).join(", ") + " ms"],
      ["Draft lost", own.draft_lost ? count(own.draft_lost, "time") : null],
    ].filter(([, value]) => value);
    const list = make("dl", "rows"), head = make("summary");
    head.textContent = "All figures";
    for (const [name, value] of rows) {
      const row = make("div"), term = make("dt"), said = make("dd");
      term.textContent = name;
      said.textContent = value;
      row.append(term, said);
      list.append(row);
    }
    this.more.replaceChildren(head, list);
    this.more.hidden = false;
  }

  // Put each token's part of each run into a span of its kind.
  #colour(runs) {
    for (const { node, start } of runs) {
      const text = node.data, end = start + text.length, parts = [];
      for (let i = this.#at(start); i < this.tokens.length && this.tokens[i].start < end; i += 1) {
        const token = this.tokens[i];
        const from = Math.max(token.start, start), upto = Math.min(token.start + token.text.length, end);
        if (upto <= from) continue;
        const span = make("span", `t ${token.kind}`);
        span.dataset.round = token.round;
        span.title = `${token.kind}, round ${token.round}`;
        span.textContent = text.slice(from - start, upto - start);
        parts.push(span);
      }
      node.replaceWith(...parts);
    }
  }

  // The first token that reaches beyond this place.
  #at(place) {
    let low = 0, high = this.tokens.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.tokens[middle].start + this.tokens[middle].text.length > place) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  #light(round) {
    for (const span of this.prose.querySelectorAll(".lit")) span.classList.remove("lit");
    if (round === undefined) return;
    for (const span of this.prose.querySelectorAll(`[data-round="${round}"]`)) span.classList.add("lit");
  }
}

const whole = (value) => Number(value).toFixed(0);
const count = (num, what) => `${num} ${what}${num === 1 ? "" : "s"}`;

export function make(name, className = "") {
  const node = document.createElement(name);
  node.className = className;
  return node;
}
