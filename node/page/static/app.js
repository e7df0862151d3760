// The page: a conversation, and what the node tells of the network.

import * as api from "./api.js";
import { Answer, copyButton, h, say } from "./dom.js";
import * as panels from "./panels.js";
import { Picture, served, uncovered } from "./picture.js";
import { many, ms, rate, short, span } from "./text.js";

const $ = (id) => document.getElementById(id);

// ---- what is kept in this browser ----------------------------------------

const kept = {
  get(name, otherwise) {
    try {
      return JSON.parse(localStorage.getItem("shoal." + name)) ?? otherwise;
    } catch {
      return otherwise;
    }
  },
  set(name, value) {
    try {
      localStorage.setItem("shoal." + name, JSON.stringify(value));
      return true;
    } catch {
      return false; // full, or not allowed
    }
  },
};

const settings = { model: "", system: "", temperature: 0.7, maxTokens: "", ...kept.get("settings", {}) };
let messages = kept.get("chat", []).filter((m) => typeof m?.content === "string" && ["user", "assistant"].includes(m.role));

function keep() {
  if (!kept.set("chat", messages)) trouble("This browser keeps no more of the conversation: it is too long. Copy what you need, then choose New.");
}

// ---- state ------------------------------------------------------------------

let view = null; // of the node, as last told
let current = null; // the answer in the making: {abort, ...}
let route = null; // {hops, costs, live, repairing}: of the last answer
let figures = null; // of the last answer
let editing = -1; // index of the message that is edited
const lost = new Map(); // peer -> when the route lost it
const lostFor = 15000;
const picture = new Picture($("picture"));

function trouble(text) {
  $("trouble").hidden = !text;
  say($("trouble"), text || "");
}

function announce(text) {
  $("announce").textContent = text;
}

function model() {
  return view?.models.find((m) => m.id === $("model").value) ?? null;
}

function redraw() {
  if (!view) return;
  const now = Date.now();
  for (const [peer, since] of lost) if (now - since > lostFor) lost.delete(peer);
  picture.draw({ view, model: model(), route, lost });
  panels.gauges(figures);
  panels.hops(route, view, lost);
  panels.where(route, figures);
  panels.nodes(view, model(), lost);
  panels.models(view, $("model").value);
  panels.node(view);
  const nodes = new Set(served(view, model()).filter((f) => f.ready && !f.silent).map((f) => f.peer)).size;
  say($("network-count"), `${many(nodes, "node")}, ${many(view.peers.length, "peer")}`);
}

// ---- the node's view, again and again --------------------------------------

let looking = 0;

async function look() {
  clearTimeout(looking);
  if (!document.hidden) {
    try {
      view = await api.view();
      if ($("trouble").dataset.from === "view") trouble("");
      listModels();
      redraw();
    } catch (err) {
      if (err.status === 401) askKey(err.message);
      else {
        trouble(err.message);
        $("trouble").dataset.from = "view";
      }
    }
  }
  looking = setTimeout(look, current ? 700 : 1500);
}

function listModels() {
  const select = $("model");
  const rank = (m) => (served(view, m).length === 0 ? 2 : uncovered(served(view, m), m.blocks).length > 0 ? 1 : 0);
  const list = view.models.map((m) => ({ id: m.id, name: m.name || m.id.slice(-12), rank: rank(m) })).sort((a, b) => a.rank - b.rank || a.name.localeCompare(b.name));
  const now = JSON.stringify(list);
  if (select.dataset.list === now) return;
  select.dataset.list = now;
  const chosen = select.value || settings.model;
  select.replaceChildren(...list.map((m) => h("option", { value: m.id }, m.name + ["", " (not whole)", " (not served)"][m.rank])));
  if (list.length === 0) select.append(h("option", { value: "" }, "no model yet"));
  select.value = list.some((m) => m.id === chosen) ? chosen : (list[0]?.id ?? "");
}

// ---- the conversation --------------------------------------------------------

function showAll() {
  $("messages").replaceChildren(...messages.map((m, i) => shown(m, i)));
  $("welcome").hidden = messages.length > 0;
  toEnd(true);
}

function shown(m, i) {
  const actions = h("div", { class: "actions" });
  const body = h("div", { class: "text" });
  const foot = h("div", { class: "wake" });
  const li = h("li", { class: m.role, "aria-label": m.role === "user" ? "You" : "Answer" }, body, foot, actions);
  if (m.role === "user") {
    body.textContent = m.content;
    actions.append(h("button", { type: "button", class: "quiet", onclick: () => edit(messages.indexOf(m)) }, "Edit"), copyButton("Copy message", () => m.content));
  } else {
    if (m.content !== "") new Answer(body).push(m.content);
    actions.append(h("button", { type: "button", class: "quiet regenerate", onclick: () => regenerate() }, "Regenerate"), copyButton("Copy answer", () => m.content));
    wake(foot, m);
  }
  return li;
}

/** The line under an answer: how it came about. */
function wake(el, m) {
  const f = m.meta;
  if (!f) return el.replaceChildren();
  const parts = [];
  if (f.rate > 0) parts.push(`${rate(f.rate)} tokens/s, predicted ${rate(f.predicted)}`);
  if (f.ttft > 0) parts.push(`first token ${ms(f.ttft)}`);
  if (f.stages > 0) parts.push(many(f.stages, "stage"));
  if (f.note && f.stages > 1) parts.push(f.note);
  const end = { length: "cut off at the token limit", stopped: "stopped", broken: "interrupted" }[f.finish];
  if (end) parts.push(end);
  el.replaceChildren(
    ...(f.repairs ?? []).map((r) => h("p", { class: "repair" + (r.mended ? "" : " open") }, r.mended
      ? `After ${many(r.token, "token")} ${names(r.lost)} was lost; ${r.by.length > 0 ? names(r.by) + " took over" : "its links were re-established"} in ${ms(r.stall)}.`
      : `${names(r.lost)} is lost; looking for another way …`)),
    ...(f.error ? [h("p", { class: "error" }, f.error)] : []),
    h("p", null, parts.join(" · ")),
  );
}

const names = (hops) => (hops.length === 0 ? "a stage" : hops.map((x) => `${short(x.peer)} (${span(x)})`).join(" and "));

function atEnd() {
  const log = $("log");
  return log.scrollHeight - log.scrollTop - log.clientHeight < 60;
}

function toEnd(always) {
  if (always || !$("latest").dataset.away) $("log").scrollTop = $("log").scrollHeight;
}

function busy(state) {
  document.body.dataset.state = state;
  $("send").textContent = current ? "Stop" : "Send";
  $("send").classList.toggle("stop", Boolean(current));
  say($("status"), { waiting: "finding a route …", answering: "answering", repairing: "a node was lost; repairing the route …" }[state] ?? "");
}

async function send() {
  if (current) return stop();
  const text = $("prompt").value;
  if (text.trim() === "") return $("prompt").focus();
  if (editing >= 0) messages = messages.slice(0, editing);
  endEdit();
  messages.push({ role: "user", content: text });
  $("prompt").value = "";
  grow();
  showAll();
  await answer();
}

function stop() {
  current?.abort.abort();
}

function regenerate() {
  if (current) return;
  while (messages.at(-1)?.role === "assistant") messages.pop();
  if (messages.length === 0) return;
  showAll();
  answer();
}

function edit(i) {
  if (current || i < 0) return;
  editing = i;
  $("prompt").value = messages[i].content;
  $("editing").hidden = false;
  grow();
  $("prompt").focus();
}

function endEdit() {
  editing = -1;
  $("editing").hidden = true;
}

/** Has the model answer the conversation as it stands. */
async function answer() {
  const m = { role: "assistant", content: "", meta: { repairs: [], stages: 0 } };
  const request = {
    model: $("model").value, temperature: Number(settings.temperature),
    messages: [...(settings.system ? [{ role: "system", content: settings.system }] : []), ...messages.map(({ role, content }) => ({ role, content }))],
  };
  if (settings.maxTokens) request.max_tokens = Number(settings.maxTokens);
  messages.push(m);
  const li = shown(m, messages.length - 1);
  $("messages").append(li);
  li.classList.add("live");
  const [body, foot] = li.children;
  const out = new Answer(body, () => toEnd(false));
  current = { abort: new AbortController() };
  figures = null;
  trouble("");
  busy("waiting");
  announce("Answering");
  toEnd(true);
  const story = new Story(m, foot);
  try {
    await api.chat(request, current.abort.signal, (chunk) => {
      const delta = chunk.choices?.[0]?.delta;
      const thought = delta?.reasoning_content ?? delta?.reasoning;
      if (thought) think(body, m, thought);
      if (delta?.content) {
        m.content += delta.content;
        out.push(delta.content);
      }
      if (chunk.choices?.[0]?.finish_reason) m.meta.finish = chunk.choices[0].finish_reason;
      if (chunk.shoal) story.take(chunk.shoal);
    });
    announce(`The answer is complete: ${many(story.tokens, "token")}.`);
  } catch (err) {
    if (err.name === "AbortError") {
      m.meta.finish = "stopped";
      announce("Stopped");
    } else {
      m.meta.finish = "broken";
      m.meta.error = err.message;
      announce(err.message);
      if (err.status === 401) askKey(err.message);
    }
  }
  story.end();
  li.classList.remove("live");
  if (m.content === "" && m.meta.finish === "stopped") {
    messages.pop();
    li.remove();
  }
  current = null;
  wake(foot, m);
  busy("idle");
  toEnd(false);
  keep();
  look();
}

/** Thoughts of a model that marks them come in a fold above the answer. */
function think(body, m, text) {
  let fold = body.parentElement.querySelector(".thought");
  if (!fold) {
    fold = h("details", { class: "thought" }, h("summary", null, "Thoughts"), h("div"));
    body.before(fold);
  }
  fold.lastChild.append(text);
}

/** What a stream tells besides text: the route, its repairs, how fast it is. */
class Story {
  tokens = 0;
  #times = []; // of the last tokens

  constructor(m, foot) {
    this.m = m;
    this.foot = foot;
    this.began = performance.now();
  }

  take(d) {
    if (d.start) this.#start(d.start);
    if (d.tokens) this.#tokens(d.tokens.length);
    if (d.repair) this.#repair(d.repair);
    if (d.done) this.#done(d.done);
  }

  #start(s) {
    route = { hops: s.route, costs: s.costs ?? null, live: true };
    figures = { rate: 0, predicted: s.predicted_tokens_per_s, ttft: performance.now() - this.began, predictedTtft: s.predicted_ttft_ms, tokens: 0, repairs: 0, stall: 0, kept: 0 };
    Object.assign(this.m.meta, { predicted: s.predicted_tokens_per_s, stages: s.route.length });
    busy("answering");
    redraw();
  }

  #tokens(n) {
    this.tokens += n;
    const now = performance.now();
    this.#times.push(now);
    if (this.#times.length > 40) this.#times.shift();
    const past = (now - this.#times[0]) / 1000;
    if (figures) {
      figures.tokens = this.tokens;
      if (past > 0.2) figures.rate = (this.#times.length - 1) / past;
    }
    if (this.frame) return;
    this.frame = setTimeout(() => { // a few times a second is enough for figures
      this.frame = 0;
      picture.flow();
      panels.gauges(figures);
      panels.where(route, figures);
      if (figures?.rate > 0 && document.body.dataset.state === "answering") say($("status"), `${rate(figures.rate)} tokens/s, predicted ${rate(figures.predicted)}`);
    }, 120);
  }

  #repair(r) {
    const repairs = this.m.meta.repairs;
    if (!r.route) {
      for (const x of r.lost ?? []) lost.set(x.peer, Date.now());
      if (route) route = { ...route, repairing: true };
      repairs.push({ token: r.token, lost: r.lost ?? [], by: [], mended: false });
      busy("repairing");
      announce("A node of the route was lost. Another is looked for.");
    } else {
      const before = new Set((route?.hops ?? []).map((x) => x.peer + span(x)));
      const by = r.route.filter((x) => !before.has(x.peer + span(x)));
      const replaced = r.lost ?? [];
      for (const x of r.route) lost.delete(x.peer);
      for (const x of replaced) if (!r.route.some((y) => y.peer === x.peer)) lost.set(x.peer, Date.now());
      route = { hops: r.route, costs: r.costs ?? null, live: true };
      const open = repairs.at(-1);
      const last = { token: r.token, lost: replaced.length > 0 ? replaced : (open?.lost ?? []), by, stall: r.stall_ms, mended: true };
      if (open && !open.mended) repairs[repairs.length - 1] = last;
      else repairs.push(last);
      if (figures) {
        figures.repairs++;
        figures.stall += r.stall_ms;
      }
      this.#times = [];
      this.m.meta.stages = r.route.length;
      busy("answering");
      announce("The route was repaired; the answer goes on.");
    }
    wake(this.foot, this.m);
    redraw();
    toEnd(false);
  }

  #done(d) {
    Object.assign(this.m.meta, { rate: d.tokens_per_s, ttft: d.ttft_ms, note: d.note, tokens: d.tokens });
    if (figures) Object.assign(figures, { rate: d.tokens_per_s, ttft: d.ttft_ms, tokens: d.tokens, kept: d.prompt_tokens_kept ?? 0 });
  }

  end() {
    if (figures && !this.m.meta.rate) Object.assign(this.m.meta, { rate: figures.rate, ttft: figures.ttft });
    if (route) route = { ...route, live: false, repairing: false };
    redraw();
  }
}

// ---- settings, key, theme ----------------------------------------------------

function askKey(why) {
  $("dialog-why").hidden = false;
  say($("dialog-why"), why);
  openDialog();
  $("key").focus();
}

function openDialog() {
  if ($("dialog").open) return;
  $("key").value = api.key.get();
  $("system").value = settings.system;
  $("temperature").value = settings.temperature;
  $("max-tokens").value = settings.maxTokens;
  $("dialog").showModal();
}

function takeSettings() {
  api.key.set($("key").value.trim());
  const t = Number($("temperature").value);
  settings.system = $("system").value.trim();
  settings.temperature = $("temperature").value !== "" && t >= 0 && t <= 2 ? t : 0.7;
  const n = Math.floor(Number($("max-tokens").value));
  settings.maxTokens = n >= 1 ? n : "";
  kept.set("settings", settings);
  $("dialog-why").hidden = true;
  look();
}

const themes = { "": ["◐", "as the system has it"], light: ["☀", "light"], dark: ["☾", "dark"] };

function setTheme(t) {
  if (t) document.documentElement.dataset.theme = t;
  else delete document.documentElement.dataset.theme;
  kept.set("theme", t);
  $("theme").textContent = themes[t][0];
  $("theme").setAttribute("aria-label", `Theme: ${themes[t][1]}`);
  $("theme").title = `Theme: ${themes[t][1]}`;
}

function show(name) {
  document.body.dataset.tab = name;
  for (const b of document.querySelectorAll("nav button")) {
    if (b.dataset.view === name) b.setAttribute("aria-current", "page");
    else b.removeAttribute("aria-current");
  }
  redraw();
}

function grow() {
  const t = $("prompt");
  t.style.height = "auto";
  t.style.height = Math.min(t.scrollHeight + 2, window.innerHeight * 0.4) + "px";
}

function forgetChat() {
  stop();
  messages = [];
  route = figures = null;
  localStorage.removeItem("shoal.chat");
  endEdit();
  showAll();
  redraw();
}

$("send").addEventListener("click", send);
$("prompt").addEventListener("input", grow);
$("prompt").addEventListener("keydown", (e) => {
  if (e.key !== "Enter" || e.shiftKey || e.isComposing) return;
  e.preventDefault();
  if (!current) send();
});
document.addEventListener("keydown", (e) => {
  if (e.key !== "Escape" || $("dialog").open) return;
  if (current) stop();
  else if (editing >= 0) {
    endEdit();
    $("prompt").value = "";
    grow();
  }
});
$("noedit").addEventListener("click", () => {
  endEdit();
  $("prompt").value = "";
  grow();
  $("prompt").focus();
});
$("new").addEventListener("click", () => {
  forgetChat();
  announce("A new conversation");
  show("chat");
  $("prompt").focus();
});
$("forget").addEventListener("click", () => {
  forgetChat();
  for (const name of ["settings", "theme"]) localStorage.removeItem("shoal." + name);
  Object.assign(settings, { model: "", system: "", temperature: 0.7, maxTokens: "" });
  $("key").value = $("system").value = $("max-tokens").value = "";
  $("temperature").value = 0.7;
  setTheme("");
  announce("Everything that was kept in this browser is gone.");
});
$("settings").addEventListener("click", openDialog);
$("done").addEventListener("click", () => $("dialog").close());
$("dialog").addEventListener("close", takeSettings);
$("theme").addEventListener("click", () => setTheme({ "": "light", light: "dark", dark: "" }[kept.get("theme", "")] ?? ""));
$("model").addEventListener("change", () => {
  settings.model = $("model").value;
  kept.set("settings", settings);
  route = figures = null;
  redraw();
});
$("log").addEventListener("scroll", () => {
  const away = !atEnd();
  if (away) $("latest").dataset.away = "1";
  else delete $("latest").dataset.away;
  $("latest").hidden = !away;
});
$("latest").addEventListener("click", () => toEnd(true));
for (const b of document.querySelectorAll("nav button")) b.addEventListener("click", () => show(b.dataset.view));
document.addEventListener("visibilitychange", () => !document.hidden && look());

setTheme(themes[kept.get("theme", "")] ? kept.get("theme", "") : "");
busy("idle");
showAll();
grow();
look();
$("prompt").focus({ preventScroll: true });
