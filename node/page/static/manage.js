// What the owner does with models from the page: get, serve, stop, pin and remove them,
// and invite other machines.

import * as api from "./api.js";
import { copyButton, h, qrPicture, say, sureButton } from "./dom.js";
import { bytes, many } from "./text.js";

export const howToOwn = () => h("p", { class: "fine owner-how" }, "To change this node from here, type ", h("code", null, "shoal page"), " on that machine and open the link.");

const jobs = new Map(); // model -> {what, done, total, error, abort}
let changed = () => {};
let announce = () => {};

export function setup(onChange, say) {
  changed = onChange;
  announce = say;
}

/** What is under way for a model, by any of its names. */
export const job = (...names) => names.map((n) => jobs.get(n)).find(Boolean) ?? null;

/** A summary of the jobs, to see whether anything has changed. */
export const jobsNow = () => [...jobs].map(([name, j]) => [name, j.what, j.done, j.total, j.error]);

async function run(name, what, act) {
  if (jobs.get(name) && !jobs.get(name).error) return false;
  const j = { what, done: 0, total: 0, error: "", abort: new AbortController() };
  jobs.set(name, j);
  changed();
  try {
    await act(j.abort.signal, (p) => {
      if (p.total > 0) Object.assign(j, { done: p.done, total: p.total, left: p.seconds_left });
      if (p.what) j.what = p.what;
      changed();
    });
    jobs.delete(name);
    return true;
  } catch (err) {
    if (err.name === "AbortError") jobs.delete(name);
    else {
      j.error = err.message;
      announce(err.message);
    }
    return false;
  } finally {
    changed();
  }
}

export async function serve(model, label) {
  const ok = await run(model, "starting", (signal, on) => api.serve(model, signal, on));
  if (ok) announce(`${label} is served here.`);
  return ok;
}

const pull = (m) => run(m.id, "fetching", (signal, on) => api.pull(m.id, signal, on));
const stop = (m) => run(m.id, "stopping; sessions move to other nodes first", () => api.stop(m.id));
const pin = (m) => run(m.id, m.pinned ? "unpinning" : "pinning", () => api.pin(m.id, Boolean(m.pinned)));
const remove = (m) => run(m.id, "removing", () => api.remove(m.id));

/** How a job goes: a bar, words, and a way to end it. */
export function jobLine(name, j) {
  if (j.error) {
    return h("p", { class: "warn", role: "alert" }, j.error, " ", h("button", { type: "button", class: "quiet", "data-key": "dismiss " + name, onclick: () => { jobs.delete(name); changed(); } }, "Dismiss"));
  }
  const part = j.total > 0 ? (100 * j.done) / j.total : 0;
  const bar = h("div", { class: j.total > 0 ? "progress" : "progress unknown", role: "progressbar", "aria-label": j.what, "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": j.total > 0 ? Math.floor(part) : undefined }, h("i"));
  if (j.total > 0) bar.firstChild.style.width = `${part}%`;
  return h("div", { class: "fetch" }, bar, h("span", null, j.what + (j.total > 0 && j.done < j.total ? `: ${bytes(j.done)} of ${bytes(j.total)}` : " …")),
    h("button", { type: "button", class: "quiet", "data-key": "cancel " + name, onclick: () => j.abort.abort() }, "Cancel"));
}

/** What can be done with a model of the list. */
export function modelActions(m, view, mine) {
  const served = view.serving.some((v) => v.model === m.id || v.name === m.name);
  const off = !mine || Boolean(job(m.id, m.name) && !job(m.id, m.name).error);
  const b = (name, label, act, cls = "small") => h("button", { type: "button", class: cls, disabled: off, "data-key": `${name} ${m.id}`, "aria-label": `${label}: ${m.name}`, onclick: act }, label);
  const list = [];
  if (view.light) return null;
  if (served) list.push(b("stop", "Stop serving", () => stop(m)));
  else list.push(b("serve", "Serve it here", () => serve(m.id, m.name), "small main"));
  if (!m.complete && !served) list.push(b("pull", m.held.length > 0 ? "Fetch the rest" : "Only fetch it", () => pull(m)));
  if (m.held.length > 0) {
    list.push(b("pin", m.pinned ? "Unpin" : "Pin", () => pin(m)));
    if (!served) list.push(sureButton("Remove", `Remove ${bytes(m.allocated ?? 0)}?`, () => remove(m), { class: "small", disabled: off, "data-key": "remove " + m.id, "aria-label": `Remove ${m.name}` }));
  }
  return h("div", { class: "row-actions" }, ...list);
}

/**
 * Says whether a model of so many bytes fits: here, together with the machines that are
 * connected, or how many more like this one it takes. Besides its weights it needs
 * room for what it reads.
 */
export function fit(size, view) {
  if (view.light) return { fits: false, text: "this node only asks; it serves nothing" };
  if (!size) return { fits: true, text: "" };
  const need = size * 1.1 + (64 << 20);
  const mine = view.lending.memory;
  const free = mine - view.serving.reduce((n, v) => n + v.memory, 0);
  if (need <= free) return { fits: true, text: "fits here" };
  if (need <= mine) return { fits: false, text: "fits here once another is stopped" };
  const others = view.peers.filter((p) => p.connected && p.memory > 0).map((p) => p.memory).sort((a, b) => b - a);
  let sum = Math.max(0, free);
  for (const [i, memory] of others.entries()) {
    sum += memory;
    if (need <= sum) return { fits: false, text: `fits with ${many(i + 1, "machine")} that ${i === 0 ? "is" : "are"} here` };
  }
  const size1 = Math.max(1 << 28, mine);
  const more = Math.ceil((need - sum) / size1);
  return { fits: false, text: `needs ${many(more, "more machine")} of ${bytes(size1)}` };
}

/** A model's bytes: as the catalogue says, or about what its parameters need at 4.8 bits. */
function sizeOf(e) {
  const x = /^([\d.]+)\s*([KMBT])$/.exec(e.parameters ?? "");
  return e.size || (x ? Number(x[1]) * { K: 1e3, M: 1e6, B: 1e9, T: 1e12 }[x[2]] * 0.6 : 0);
}

/** The catalogue, searched as one types. */
export class Catalogue {
  #list = null;
  #timer = 0;
  #asked = 0;

  /** state gives {view, mine}. */
  constructor(el, state) {
    this.state = state;
    this.input = h("input", { type: "search", placeholder: "Search, such as qwen or 1b", "aria-label": "Search models", oninput: () => this.#later() });
    this.ul = h("ul", { class: "catalogue", "aria-label": "Models of the catalogue" });
    this.note = h("p", { class: "fine" });
    el.append(this.input, this.ul, this.note);
  }

  /** Asks for the list if that has not been done. */
  async load() {
    if (this.#list === null) await this.search();
    this.draw();
  }

  #later() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.search(), 250);
  }

  async search() {
    const asked = ++this.#asked;
    try {
      const list = await api.catalog(this.input.value.split(/\s+/).filter(Boolean));
      if (asked !== this.#asked) return; // an older question
      this.#list = list;
      say(this.note, list.length === 0 ? "The catalogue has no such model." : "");
    } catch (err) {
      this.#list ??= [];
      say(this.note, err.message);
    }
    this.draw();
  }

  draw() {
    const { view, mine } = this.state();
    if (!view || this.#list === null) return;
    const now = JSON.stringify([this.#list, mine, jobsNow(), view.lending.memory, view.serving.map((v) => [v.model, v.memory >> 24]), view.peers.map((p) => p.memory)]);
    if (now === this.shown) return;
    this.shown = now;
    const at = this.ul.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    const rank = (e) => (fit(sizeOf(e), view).fits ? 0 : 1);
    this.ul.replaceChildren(...[...this.#list].sort((a, b) => rank(a) - rank(b) || sizeOf(a) - sizeOf(b)).map((e) => this.#entry(e, view, mine)));
    if (at) this.ul.querySelector(`[data-key="${CSS.escape(at)}"]`)?.focus();
  }

  #entry(e, view, mine) {
    const f = fit(sizeOf(e), view);
    const j = job(e.name);
    const facts = [e.parameters && `${e.parameters} parameters`, e.quantization, sizeOf(e) > 0 && (e.size ? "" : "about ") + bytes(sizeOf(e)), e.licence].filter(Boolean).join(" · ");
    const label = e.here === "all" ? "Serve it" : f.fits ? "Get and serve" : "Serve a part";
    const served = view.serving.some((v) => (e.id && v.model === e.id) || v.name === e.name);
    const act = served ? h("span", { class: "tag good" }, "served here")
      : h("button", { type: "button", class: f.fits ? "small main" : "small", disabled: !mine || view.light || Boolean(j && !j.error), "data-key": "get " + e.name, "aria-label": `${label}: ${e.name}`, onclick: () => serve(e.name, e.name) }, label);
    return h("li", null, h("div", { class: "title" }, h("b", null, e.name), act),
      h("p", { class: "fine" }, [e.title && e.title !== e.name ? e.title : null, facts].filter(Boolean).join(" · ")),
      h("p", { class: f.fits ? "fine good" : "fine" }, [f.text, e.here === "all" ? "whole here" : e.here === "part" ? "partly here" : null, e.peers > 0 ? `${many(e.peers, "peer")} ${e.peers === 1 ? "has" : "have"} it` : null].filter(Boolean).join(" · ")),
      j ? jobLine(e.name, j) : null);
  }
}

/** An address at which others can reach this node: the nearest to a public one over QUIC. */
export function reachable(addrs) {
  const rank = (a) => (/^\/ip[46]\/(127\.|::1\/)/.test(a) ? -100 : 0) + (a.includes("/quic-v1") ? 4 : 0) + (a.startsWith("/ip4/") ? 2 : 0) + (a.includes("/p2p-circuit") ? -20 : 0) + (/^\/ip6\/fe80/i.test(a) ? -50 : 0);
  return [...addrs].sort((a, b) => rank(b) - rank(a))[0] ?? "";
}

/** Fills el with how another machine joins. */
export async function invite(el, { view, mine }, model) {
  if (!mine) return el.replaceChildren(howToOwn());
  let st;
  try {
    st = await api.status();
  } catch (err) {
    return el.replaceChildren(h("p", { class: "warn" }, err.message));
  }
  const swarms = (await api.swarms().catch(() => [])).filter((s) => s.running && !s.revoked);
  const swarm = swarms.find((s) => s.roles.includes("invite"));
  if (swarm) return inviteInto(el, swarm, st);
  if (swarms.length > 0 && !st.open) return el.replaceChildren(h("p", { class: "fine" }, `This machine may not let others into the swarm ${swarms[0].name}: make a code on the one that founded it.`));
  const best = reachable(st.addrs ?? []);
  if (best === "") return el.replaceChildren(h("p", { class: "warn" }, "This node listens nowhere, so no machine can join it."));
  const command = `shoal node --open --bootstrap ${best}` + (model ? ` --model ${/^[\w.:/-]+$/.test(model.name) ? model.name : model.id}` : "");
  const only = /^\/ip[46]\/(127\.|::1\/)/.test(best);
  const far = /^\/ip4\/(10\.|192\.168\.|172\.(1[6-9]|2\d|3[01])\.|169\.254\.)/.test(best);
  el.replaceChildren(
    h("p", { class: "fine" }, "On the other machine, with shoal installed, type:"),
    h("div", { class: "command" }, h("code", { tabindex: "0" }, command), copyButton("Copy the command", () => command)),
    h("p", { class: "fine" }, only ? "This node listens only on this machine: the command works only here." : far ? "That address is for machines on this network. There, nodes also find each other without it." : "It works from everywhere that reaches this address."));
  try {
    el.append(qrPicture(await api.qr(command), "QR code of the command"));
  } catch { /* the command itself is there */ }
  await otherDevices(el, st);
}

/** Fills el with how another machine joins a private swarm: with a code, made on request. */
async function inviteInto(el, swarm, st) {
  const code = h("div");
  const make = h("button", { type: "button", class: "small", onclick: async () => {
    make.disabled = true;
    try {
      const command = `shoal join ${(await api.makeCode(swarm.id)).code}`;
      code.replaceChildren(
        h("p", { class: "fine" }, "On the other machine, with shoal installed, type this. Pass it on like a password:"),
        h("div", { class: "command" }, h("code", { tabindex: "0" }, command), copyButton("Copy the command", () => command)),
        qrPicture(await api.qr(command.split(" ").pop()), "QR code of the code"));
    } catch (err) {
      code.replaceChildren(h("p", { class: "warn", role: "alert" }, err.message));
      make.disabled = false;
    }
  } }, "Make a code");
  el.replaceChildren(h("p", { class: "fine" }, `A code lets one machine into the private swarm ${swarm.name}, once and within a day.`), h("div", { class: "row-actions" }, make), code);
  await otherDevices(el, st);
}

/** Says how a phone or another computer opens this page. */
async function otherDevices(el, st) {
  const url = (st.urls ?? []).find((u) => !/^https?:\/\/(127\.|\[::1\])/.test(u));
  el.append(h("h3", null, "This page on a phone"));
  if (!url) {
    el.append(h("p", { class: "fine" }, "Other devices cannot open it: this node's API listens only on this machine. ", h("code", null, "shoal key add phone"), " makes a key, and ", h("code", null, "shoal node --api 0.0.0.0:11500 --tls"), " opens the page to devices that have it."));
    return;
  }
  el.append(h("div", { class: "command" }, h("code", { tabindex: "0" }, url), copyButton("Copy the address", () => url)));
  if (st.tls_fingerprint) {
    el.append(h("p", { class: "fine" }, "The first time, the browser there warns of the certificate. It is this node's if it shows this SHA-256 fingerprint:"), h("code", { class: "fine print" }, st.tls_fingerprint),
      h("p", { class: "fine" }, "To change the node from there, open the link that ", h("code", null, "shoal page --qr"), " prints."));
  } else {
    el.append(h("p", { class: "fine" }, "Over plain HTTP whoever is on the same network can read along, the key included. The setting ", h("code", null, "tls"), " encrypts it, and lets the page change the node from there."));
  }
  try {
    el.append(qrPicture(await api.qr(url), "QR code of the page's address"));
    if (st.tls_fingerprint) el.append(h("p", { class: "fine" }, "The fingerprint, to compare with a scanner:"), qrPicture(await api.qr(st.tls_fingerprint), "QR code of the fingerprint"));
  } catch { /* the address itself is there */ }
}
