// The server: what it serves, and answers as they come. Failures are told in words.

const STATUS = {
  400: "The server refused the request",
  404: "This address has no chat",
  413: "The conversation is too large for one request",
  429: "The server is full",
  500: "The server failed",
  502: "A proxy in front of the server got no answer from it (502). It is down or starting",
  503: "The service is not ready (503)",
  504: "The answer took longer than the server or a proxy allows (504)",
};

/** A failed call. `kind`: key, full, busy, refused, down, lost, failed. `message` is a sentence for people. */
export class Failure extends Error {
  constructor(kind, message) {
    super(message);
    this.kind = kind;
  }
}

export class Server {
  /** `key()` gives the API key, or an empty text. */
  constructor(key) {
    this.key = key;
  }

  /** The served model, as in /v1/models. Raises Failure. */
  async model() {
    const response = await this.#call("v1/models", { headers: this.#headers({}) });
    const list = await response.json().catch(() => null);
    if (!list?.data?.length) throw new Failure("failed", "This address does not answer as an AdaSD server does.");
    return list.data[0];
  }

  /** Ask; `onChunk` gets every chunk, one per step. Raises Failure; AbortError once the signal fires. */
  async answer(body, signal, onChunk) {
    const response = await this.#call("v1/chat/completions", {
      method: "POST", headers: this.#headers({ "Content-Type": "application/json" }), body: JSON.stringify(body), signal,
    });
    let isWhole = false;
    try {
      for await (const data of events(response.body)) {
        if (data === "[DONE]") { isWhole = true; continue; }
        const chunk = JSON.parse(data);
        if (chunk.error) throw told(chunk.error, 200);
        onChunk(chunk);
      }
    } catch (error) {
      if (error instanceof Failure || error.name === "AbortError") throw error;
      throw lost();
    }
    if (!isWhole) throw lost();
  }

  async #call(path, options) {
    let response;
    try {
      response = await fetch(path, options);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Failure("down", `No server answers at ${location.host}. Is it still running?`);
    }
    if (response.ok) return response;
    const { error } = await response.json().catch(() => ({}));
    throw told(error, response.status, response.headers.get("Retry-After"));
  }

  #headers(more) {
    const key = this.key();
    return key ? { ...more, Authorization: `Bearer ${key}` } : more;
  }
}

const lost = () => new Failure("lost", "The connection to the server was lost; the answer is not whole.");

function told(error, status, retryAfter) {
  if (status === 401) return new Failure("key", "The server does not know this API key.");
  if (error?.code === "context_length_exceeded") {
    return new Failure("full", `The context is full. ${sentence(error.message)} Begin a new chat, or shorten this one.`);
  }
  if (status === 429) return new Failure("busy", `The server is full${wait(retryAfter)}: ${error?.message ?? "it took no request"}.`);
  if (error?.message) return new Failure(status >= 500 || status === 200 ? "failed" : "refused", `${sentence(error.message)}`);
  return new Failure(status >= 500 ? "down" : "refused", `${STATUS[status] ?? `The server answered ${status}`}${wait(retryAfter)}.`);
}

const wait = (seconds) => seconds ? `; try again in ${seconds} s` : "";
const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");

// The data of each server-sent event.
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const whole = (rest + value).split("\n\n");
      rest = whole.pop();
      for (const event of whole) if (event.startsWith("data: ")) yield event.slice(6);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
