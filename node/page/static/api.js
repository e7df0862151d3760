// What the page asks of its node.

import { EventReader } from "./sse.js";

const none = { getItem: () => null, setItem() {}, removeItem() {} };
const tab = storage("sessionStorage"); // gone with the tab
const browser = storage("localStorage");

function storage(name) {
  try {
    return window[name] ?? none;
  } catch {
    return none; // the browser does not allow it
  }
}

/** The API key: kept until the tab is closed, or by choice for good. */
export const key = {
  get: () => tab.getItem("shoal.key") ?? browser.getItem("shoal.key") ?? "",
  remembered: () => browser.getItem("shoal.key") !== null,
  set(k, remember) {
    tab.removeItem("shoal.key");
    browser.removeItem("shoal.key");
    if (k !== "") (remember ? browser : tab).setItem("shoal.key", k);
  },
};

/** The secret of the owner's session; the node knows it until it is restarted. */
export const session = {
  get: () => browser.getItem("shoal.owner") ?? "",
  set: (s) => (s === "" ? browser.removeItem("shoal.owner") : browser.setItem("shoal.owner", s)),
};

/** An error that the node gave, or that it could not be reached (status 0). */
export class Failure extends Error {
  constructor(message, status, code = "") {
    super(message);
    this.status = status;
    this.code = code;
  }
}

async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (key.get() !== "") headers.Authorization = "Bearer " + key.get();
  if (session.get() !== "") headers["X-Shoal-Owner"] = session.get();
  let r;
  try {
    r = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit", redirect: "error" });
  } catch (err) {
    if (err.name === "AbortError") throw err;
    throw new Failure("The node does not answer. Is it still running?", 0);
  }
  if (!r.ok) {
    const body = await r.json().catch(() => null);
    throw new Failure(body?.error?.message ?? `The node answers ${r.status}.`, r.status, body?.error?.code);
  }
  return r;
}

const get = async (path) => (await ask(path)).json();
const post = (path, body, signal) => ask(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal });

/** The node and its network: api.View. */
export const view = () => get("/shoal/v1/view");

/** Whether this page may change the node: {owner, session, private}. */
export const owner = () => get("/shoal/v1/owner");

/** Exchanges the code of a link for a session. */
export async function becomeOwner(code) {
  session.set((await (await post("/shoal/v1/owner/session", { code })).json()).session);
}

export async function leaveOwner() {
  await ask("/shoal/v1/owner/session", { method: "DELETE" }).catch(() => {});
  session.set("");
}

export const catalog = (words) => get("/shoal/v1/catalog?" + new URLSearchParams(words.map((w) => ["word", w])));
export const peers = () => get("/shoal/v1/peers");
export const status = () => get("/shoal/v1/status");
export const settings = () => get("/shoal/v1/settings");
export const changeSettings = async (change) => (await post("/shoal/v1/settings", change)).json();
export const swarms = async () => (await get("/shoal/v1/swarms")).swarms;
export const makeCode = async (swarm) => (await post(`/shoal/v1/swarms/${swarm}/invite`, {})).json();
export const qr = async (text) => (await (await post("/shoal/v1/qr", { text })).json()).rows;
export const serve = (model, signal, on) => work("/shoal/v1/serve", { model }, signal, on);
export const pull = (model, signal, on) => work("/shoal/v1/models/pull", { model }, signal, on);
export const stop = (model) => post("/shoal/v1/stop", { model });
export const pin = (model, off) => post("/shoal/v1/models/pin", { model, off });
export const remove = (model) => ask("/shoal/v1/models/" + encodeURIComponent(model), { method: "DELETE" });

/** Long work: on gets each line of progress; the promise ends with the result. */
async function work(path, body, signal, on) {
  const r = await post(path, body, signal);
  const reader = r.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const piece = await read(reader, "The node stopped this before it was done.");
    const lines = (rest + piece).split("\n");
    rest = lines.pop();
    for (const line of lines.filter((l) => l !== "")) {
      const l = JSON.parse(line);
      if (l.error) throw new Failure(l.error.message, 200, l.error.code);
      if (l.progress) on(l.progress);
      else return l.result;
    }
  }
}

/** Reads the next piece of a stream, which must not end here. */
async function read(reader, otherwise) {
  let piece;
  try {
    piece = await reader.read();
  } catch (err) {
    if (err.name === "AbortError") throw err;
    throw new Failure(otherwise, 0);
  }
  if (piece.done) throw new Failure(otherwise, 0);
  return piece.value;
}

/**
 * Asks for an answer. on gets each chunk of the stream; the promise ends with
 * it, or fails with what broke it.
 */
export async function chat(request, signal, on) {
  const r = await post("/v1/chat/completions", { ...request, stream: true, shoal: { details: true } }, signal);
  const reader = r.body.pipeThrough(new TextDecoderStream()).getReader();
  const events = new EventReader();
  let begun = false;
  for (;;) {
    const piece = await read(reader, begun ? "The connection to the node was lost in the middle of the answer." : "The connection to the node was lost before the answer began.");
    for (const data of events.push(piece)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Failure(chunk.error.message, 200, chunk.error.code);
      begun = true;
      on(chunk);
    }
  }
}
