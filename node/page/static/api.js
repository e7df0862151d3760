// What the page asks of its node.

import { EventReader } from "./sse.js";

const keyName = "shoal.key"; // in sessionStorage: gone with the tab

export const key = {
  get: () => sessionStorage.getItem(keyName) ?? "",
  set: (k) => (k === "" ? sessionStorage.removeItem(keyName) : sessionStorage.setItem(keyName, k)),
};

/** An error that the node gave, or that it could not be reached (status 0). */
export class Failure extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (key.get() !== "") headers.Authorization = "Bearer " + key.get();
  let r;
  try {
    r = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit", redirect: "error" });
  } catch (err) {
    if (err.name === "AbortError") throw err;
    throw new Failure("The node does not answer. Does it still run?", 0);
  }
  if (!r.ok) {
    const body = await r.json().catch(() => null);
    throw new Failure(body?.error?.message ?? `The node answers ${r.status}.`, r.status);
  }
  return r;
}

/** The node and its network: api.View. */
export async function view() {
  return (await ask("/shoal/v1/view")).json();
}

/**
 * Asks for an answer. on gets each chunk of the stream; the promise ends with
 * it, or fails with what broke it.
 */
export async function chat(request, signal, on) {
  const body = JSON.stringify({ ...request, stream: true, shoal: { details: true } });
  const r = await ask("/v1/chat/completions", { method: "POST", headers: { "Content-Type": "application/json" }, body, signal });
  const reader = r.body.pipeThrough(new TextDecoderStream()).getReader();
  const events = new EventReader();
  for (;;) {
    let piece;
    try {
      piece = await reader.read();
    } catch (err) {
      if (err.name === "AbortError") throw err;
      throw new Failure("The node broke off in the middle of its answer.", 0);
    }
    if (piece.done) throw new Failure("The node broke off in the middle of its answer.", 0);
    for (const data of events.push(piece.value)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Failure(chunk.error.message, 200);
      on(chunk);
    }
  }
}
