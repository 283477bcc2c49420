// One prompt in three modes at once, side by side.

import { AnswerView, make } from "./answer.js";

export const MODES = ["off", "exact", "adaptive"];

const SAYS = { off: "the target alone", exact: "same distribution", adaptive: "may be relaxed" };

/** Run the race. `bodyOf(mode)` makes a request; returns the lanes once all have ended. AbortError if it was stopped. */
export async function race(server, bodyOf, { box, inTurn, signal, contextLen }) {
  const lanes = MODES.map((mode) => new Lane(mode));
  box.replaceChildren(...lanes.map((lane) => lane.node));
  box.hidden = false;
  const ticking = setInterval(() => compare(lanes), 100);
  try {
    const starts = lanes.map((lane) => () => lane.run(server, bodyOf(lane.mode), signal, contextLen));
    if (inTurn) for (const start of starts) await start();
    else await Promise.all(starts.map((start) => start()));
  } finally {
    clearInterval(ticking);
    compare(lanes);
  }
  return lanes;
}

/** What the race showed, in words. */
export function result(lanes) {
  const [off, exact, adaptive] = lanes;
  if (lanes.some((lane) => lane.failure)) return lanes.find((lane) => lane.failure).failure.message;
  const first = lanes.reduce((best, lane) => lane.tookMs < best.tookMs ? lane : best);
  const against = (lane) => lane.view.text === off.view.text ? "wrote the same as off"
    : `left off’s text after ${sharedTokens(lane.view, off.view)} tokens`;
  return `${first.mode} was first, after ${(first.tookMs / 1000).toFixed(2)} s. `
    + `exact ${against(exact)}, adaptive ${against(adaptive)}.`;
}

class Lane {
  constructor(mode) {
    this.mode = mode;
    this.tookMs = null;
    this.failure = null;
    this.view = new AnswerView(`Answer in mode ${mode}`);
    this.node = make("section", "lane");
    const head = make("div", "lane-head"), title = make("h3"), says = make("span", "says");
    title.textContent = mode;
    says.textContent = SAYS[mode];
    this.clock = make("output", "clock");
    this.bar = make("div", "meter");
    this.fill = make("div", "fill");
    this.bar.append(this.fill);
    head.append(title, says, this.clock);
    this.node.append(head, this.bar, this.view.node);
    this.view.figures.textContent = "waits";
  }

  async run(server, body, signal, contextLen) {
    this.view.asked();
    this.view.figures.textContent = "asked";
    try {
      await server.answer(body, signal, (chunk) => this.view.take(chunk));
      this.tookMs = performance.now() - this.view.askedMs;
      this.view.end(contextLen);
    } catch (error) {
      this.view.draw();
      if (error.name === "AbortError") {
        this.view.say("Stopped.");
        throw error;
      }
      this.failure = error;
      this.view.say(error.message, true);
    }
  }

  get seconds() {
    if (this.view.askedMs === null) return 0;
    return (this.tookMs ?? performance.now() - this.view.askedMs) / 1000;
  }
}

// Bars: tokens per second of each lane, as a share of the fastest.
function compare(lanes) {
  const rates = lanes.map(({ view }) => view.rate ?? 0), most = Math.max(...rates, 1e-9);
  lanes.forEach((lane, i) => {
    lane.fill.style.width = `${100 * rates[i] / most}%`;
    lane.clock.textContent = lane.seconds ? `${lane.seconds.toFixed(2)} s` : "";
    lane.node.classList.toggle("first", lanes.every(({ tookMs }) => tookMs) && lane.tookMs === Math.min(...lanes.map((l) => l.tookMs)));
  });
}

function sharedTokens(one, other) {
  let num = 0;
  while (num < one.tokens.length && one.tokens[num].id === other.tokens[num]?.id) num += 1;
  return num;
}
