// The page: conversations, and what the node tells of the network.

import * as api from "./api.js";
import { ChatList } from "./chatlist.js";
import { Chats, content, title } from "./chats.js";
import { Answer, copyButton, h, say, sureButton } from "./dom.js";
import { chip, Files, longPaste } from "./files.js";
import * as manage from "./manage.js";
import * as panels from "./panels.js";
import { Picture, served, uncovered } from "./picture.js";
import * as roll from "./roll.js";
import { Rules } from "./rules.js";
import { count, learnNames, many, ms, rate, span, who } from "./text.js";

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
    } catch { /* full, or not allowed: it holds until the page is closed */ }
  },
};

const settings = { model: "", system: "", temperature: 0.7, maxTokens: "", ...kept.get("settings", {}) };
const chats = new Chats();
let chat = fresh(); // the conversation that is shown

function fresh() {
  const now = Date.now();
  return { id: crypto.getRandomValues(new Uint32Array(3)).join("-"), title: "", created: now, updated: now, messages: [] };
}

async function keep(which = chat) {
  if (which.messages.length === 0) return;
  try {
    await chats.put(which);
    kept.set("open", which.id);
  } catch (err) {
    trouble(err.message);
  }
}

// ---- state ------------------------------------------------------------------

let view = null; // of the node, as last told
let rights = { owner: false, session: false, private: true }; // of this page
let current = null; // the answer in the making: {abort, ...}
let route = null; // {hops, costs, live, repairing}: of the last answer
let figures = null; // of the last answer
let editing = -1; // index of the message that is edited
const lost = new Map(); // peer -> when the route lost it
const lostFor = 15000;
const picture = new Picture($("picture"));

function trouble(text, from = "") {
  $("trouble").hidden = !text;
  $("trouble").dataset.from = from;
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
  panels.blocksNote(model());
  panels.gauges(figures);
  panels.hops(route, view, lost);
  panels.where(route, figures);
  panels.nodes(view, model(), lost);
  panels.models(view, $("model").value, rights.owner);
  panels.node(view, rights.owner);
  rules.show(view, rights.owner);
  const nodes = new Set(served(view, model()).filter((f) => f.ready && !f.silent).map((f) => f.peer)).size;
  say($("network-count"), `${many(nodes, "node")}, ${many(view.peers.length, "peer")}`);
  drawStart();
  gauge();
}

// ---- the node's view, again and again --------------------------------------

let looking = 0;
let asked = 0; // when this page's rights were

async function look() {
  clearTimeout(looking);
  if (!document.hidden) {
    try {
      view = await api.view();
      if ($("trouble").dataset.from === "view") trouble("");
      if (Date.now() - asked > 15000) await askRights();
      listModels();
      redraw();
    } catch (err) {
      if (err.status === 401) askKey(err.message);
      else trouble(err.message, "view");
    }
  }
  looking = setTimeout(look, current ? 700 : 1500);
}

/** Asks what this page may do. A session that the node has forgotten is given up. */
async function askRights() {
  asked = Date.now();
  rights = await api.owner().catch((err) => {
    if (err.status === 401) throw err;
    return { owner: false, session: false, private: true };
  });
  if (rights.owner) await api.peers().then(learnNames, () => {}); // the view is for all, and has no names
  if (api.session.get() !== "" && !rights.session && rights.private) api.session.set("");
  for (const id of ["start-how", "models-how", "node-how", "adding-how"]) {
    if (rights.owner || view?.light) $(id).replaceChildren();
    else if (!$(id).hasChildNodes()) $(id).append(manage.howToOwn());
  }
  $("plain").hidden = rights.private;
  $("unown").hidden = !rights.session;
}

/** A link with a code makes this page the owner's. */
async function takeLink() {
  const code = /^#owner=([0-9a-f]+)$/.exec(location.hash)?.[1];
  if (!code) return;
  history.replaceState(null, "", location.pathname);
  try {
    await api.becomeOwner(code);
    announce("This page may now change the node.");
  } catch (err) {
    trouble(err.message);
  }
  asked = 0;
}

function listModels() {
  const select = $("model");
  const rank = (m) => (served(view, m).length === 0 ? 2 : uncovered(served(view, m), m.blocks).length > 0 ? 1 : 0);
  const list = view.models.map((m) => ({ id: m.id, name: m.name || m.id.slice(-12), rank: rank(m) })).sort((a, b) => a.rank - b.rank || a.name.localeCompare(b.name));
  const now = JSON.stringify(list);
  if (select.dataset.list === now) return;
  select.dataset.list = now;
  const chosen = list.find((m) => m.id === (select.value || settings.model));
  select.replaceChildren(...list.map((m) => h("option", { value: m.id }, m.name + ["", " (not whole)", " (not served)"][m.rank])));
  if (list.length === 0) select.append(h("option", { value: "" }, "no model yet"));
  const better = chosen && chosen.rank === 2 && chosen.id !== settings.model ? list[0] : chosen; // nobody chose it
  select.value = (better ?? list[0])?.id ?? "";
}

// ---- the first steps ----------------------------------------------------------

const tiny = "tinytales";
const state = () => ({ view, mine: rights.owner });
const startCatalogue = new manage.Catalogue($("start-catalogue"), state);
const addingCatalogue = new manage.Catalogue($("adding-catalogue"), state);
const rules = new Rules($("node-rules"), () => look());
const noModel = () => view !== null && !view.models.some((m) => served(view, m).length > 0);

/** Without a model the page offers ways to one instead of an empty chat. */
function drawStart() {
  const none = chat.messages.length === 0 && noModel();
  $("start").hidden = !none;
  $("welcome").hidden = none || chat.messages.length > 0;
  if (none) {
    if (rights.owner) startCatalogue.load();
    $("card-model").parentElement.hidden = !rights.owner;
    const j = manage.job(tiny);
    panels.render($("tiny"), [j, rights.owner, view.light], () => [
      h("div", { class: "row-actions" }, h("button", { type: "button", class: "small main", disabled: !rights.owner || view.light || Boolean(j && !j.error), "data-key": "tiny", onclick: () => manage.serve(tiny, tiny) }, "Start tinytales")),
      j ? manage.jobLine(tiny, j) : null,
    ].filter(Boolean));
  }
  if ($("adding").open && rights.owner) addingCatalogue.load();
}

async function openInvite() {
  $("inviting").showModal();
  if (!rights.owner) await askRights().catch(() => {}); // they may not be known yet
  manage.invite($("inviting-body"), state(), model());
}

// ---- the conversation --------------------------------------------------------

function showAll() {
  $("messages").replaceChildren(...chat.messages.map((m) => shown(m)));
  drawStart();
  gauge();
  toEnd(true);
}

function shown(m) {
  const actions = h("div", { class: "actions" });
  const body = h("div", { class: "text" });
  const foot = h("div", { class: "wake" });
  const li = h("li", { class: m.role, "aria-label": m.role === "user" ? "You" : "Answer" }, body, foot, actions);
  if (m.role === "user") {
    body.textContent = m.content;
    if (m.content === "") body.hidden = true;
    if (m.files?.length > 0) body.before(h("div", { class: "files" }, ...m.files.map(chip)));
    actions.append(h("button", { type: "button", class: "quiet", onclick: () => edit(chat.messages.indexOf(m)) }, "Edit"), copyButton("Copy message", () => m.content));
  } else {
    note(li, m);
    if (m.content !== "") new Answer(body).push(m.content);
    actions.append(h("button", { type: "button", class: "quiet regenerate", onclick: () => regenerate() }, "Regenerate"), copyButton("Copy answer", () => m.content));
    wake(foot, m);
  }
  return li;
}

/** Above an answer: that another model goes on from here. */
function note(li, m) {
  const before = chat.messages.slice(0, chat.messages.indexOf(m)).findLast((x) => x.meta?.model)?.meta.model;
  if (m.meta?.model && before && before !== m.meta.model && !li.querySelector(".switch")) li.prepend(h("p", { class: "switch" }, `From here on, the answers are from ${m.meta.model}.`));
}

/** The line under an answer: how it came about. */
function wake(el, m) {
  const f = m.meta;
  if (!f) return el.replaceChildren();
  const parts = [];
  if (f.model) parts.push(f.model);
  if (f.rate > 0) parts.push(`${rate(f.rate)} tokens/s, predicted ${rate(f.predicted)}`);
  if (f.ttft > 0) parts.push(`first token ${ms(f.ttft)}`);
  if (f.stages > 0) parts.push(many(f.stages, "stage"));
  if (f.note && f.stages > 1) parts.push(f.note);
  if (f.ahead) parts.push(`${many(f.ahead.sent, "guess", "guesses")} sent ahead, ${f.ahead.kept} kept${f.ahead.gain ? `, ${f.ahead.gain.toFixed(1)} times as fast` : ""}`);
  const end = { length: "cut off at the token limit", stopped: "stopped", broken: "interrupted", open: "cut off when the page was closed" }[f.finish];
  if (end) parts.push(end);
  el.replaceChildren(
    ...(f.left > 0 ? [h("p", null, `The model takes no more than ${f.context ? many(f.context, "token") : "so much"}: the ${f.left === 1 ? "oldest message was" : `${f.left} oldest messages were`} left out.`)] : []),
    ...(f.repairs ?? []).map((r) => h("p", { class: "repair" + (r.mended ? "" : " open") }, r.mended
      ? `After ${many(r.token, "token")} ${names(r.lost)} was lost; ${r.by.length > 0 ? names(r.by) + " took over" : "its links were re-established"} in ${ms(r.stall)}.${engines(r.engines)}`
      : `${names(r.lost)} is lost; looking for another way …`)),
    ...(f.error ? [h("p", { class: "error" }, f.error)] : []),
    ...(f.code === "no_route" && rights.owner && model() && !view.light ? [h("p", null, h("button", { type: "button", class: "small", onclick: () => { show("models"); manage.serve(model().id, model().name); } }, `Serve ${model().name} here`))] : []),
    h("p", null, parts.join(" · ")),
  );
}

/** That another engine goes on with an answer, whose words may differ from here on. */
const engines = (changes) => (changes?.length > 0 ? ` Another engine computes from here on (${changes[0].now || "unknown"}; before: ${changes[0].was}), so words may differ.` : "");

const names = (hops) => (hops.length === 0 ? "a stage" : hops.map((x) => `${who(view, x.peer)} (blocks ${span(x)})`).join(" and "));

// ---- scrolling: the log follows its end until the reader goes up -----------------

let follows = true;
let lastTop = 0;
let lastShape = "";
let touched = -Infinity; // when the reader last did what can scroll, in ms

const shape = () => `${$("log").clientWidth} ${$("log").clientHeight}`;

function atEnd() {
  const log = $("log");
  return log.scrollHeight - log.scrollTop - log.clientHeight < 60;
}

function toEnd(always) {
  if (always) follows = true;
  if (follows) $("log").scrollTop = chat.messages.length > 0 ? $("log").scrollHeight : 0;
  lastTop = $("log").scrollTop;
  lastShape = shape();
  $("latest").hidden = follows || atEnd();
}

function scrolled() {
  const log = $("log");
  const top = log.scrollTop;
  if (shape() !== lastShape) return toEnd(false); // the window has changed, not the reader's mind
  if (atEnd()) follows = true;
  else if (top < lastTop - 2 && performance.now() - touched < 1500) follows = false; // text that shrinks and grows again moves up, too
  lastTop = top;
  $("latest").hidden = follows || atEnd();
}

// ---- how full the context is ------------------------------------------------------

/** Tokens that the conversation has so far, about, and what the model takes. */
function filled() {
  const last = chat.messages.findLastIndex((m) => m.meta?.prompt > 0);
  const meta = chat.messages[last]?.meta;
  const per = meta?.per ?? undefined;
  const known = meta && meta.model === model()?.name;
  const rest = known ? chat.messages.slice(last + 1) : chat.messages;
  const n = (known ? meta.prompt + (meta.tokens ?? 0) : chat.messages.length > 0 ? roll.estimate(settings.system, per) : 0) + rest.reduce((k, m) => k + roll.estimate(content(m), per), 0);
  return { used: n, context: model()?.context ?? 0, per };
}

function gauge() {
  const el = $("context");
  const { used, context } = filled();
  el.hidden = context === 0 || used === 0;
  if (el.hidden) return;
  const part = Math.min(1, used / context);
  panels.render(el, [used, context], () => {
    const bar = h("span", { class: part > 0.9 ? "meter full" : "meter", "aria-hidden": "true" }, h("i"));
    bar.firstChild.style.width = `${100 * part}%`;
    return [bar, h("span", null, used > context - roll.reserve(context) ? `context full: oldest messages are left out` : `${count(used)} of ${count(context)} tokens`)];
  });
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
  if (text.trim() === "" && files.list.length === 0) return $("prompt").focus();
  if ($("model").value === "") return trouble("There is no model yet that could answer: start one first.");
  if (editing >= 0) chat.messages = chat.messages.slice(0, editing);
  endEdit();
  const attached = files.take();
  chat.messages.push({ role: "user", content: text.trim() === "" ? "" : text, ...(attached.length > 0 ? { files: attached } : {}) });
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
  while (chat.messages.at(-1)?.role === "assistant") chat.messages.pop();
  if (chat.messages.length === 0) return;
  showAll();
  answer();
}

function edit(i) {
  if (current || i < 0) return;
  editing = i;
  $("prompt").value = chat.messages[i].content;
  files.set([...(chat.messages[i].files ?? [])]);
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
  const mine = chat;
  const m = { role: "assistant", content: "", meta: { repairs: [], stages: 0, finish: "open" } };
  const asked = mine.messages.filter((x) => x.role === "user" || x.content !== "").map((x) => ({ role: x.role, content: content(x) }));
  mine.messages.push(m);
  mine.updated = Date.now();
  const li = shown(m);
  $("messages").append(li);
  li.classList.add("live");
  const body = li.querySelector(".text");
  const foot = li.querySelector(".wake");
  const out = new Answer(body, () => toEnd(false));
  current = { abort: new AbortController() };
  figures = null;
  trouble("");
  busy("waiting");
  announce("Answering");
  toEnd(true);
  keep(mine);
  const story = new Story(m, li);
  const saving = setInterval(() => keep(mine), 3000);
  try {
    await rolled(m, asked, (chunk) => {
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
      m.meta.code = err.code;
      announce(err.message);
      if (err.status === 401) askKey(err.message);
    }
  }
  clearInterval(saving);
  if (m.meta.finish === "open") m.meta.finish = "stop";
  story.end();
  li.classList.remove("live");
  if (m.content === "" && m.meta.finish === "stopped") {
    mine.messages.pop();
    li.remove();
  }
  mine.updated = Date.now();
  wake(foot, m);
  await keep(mine); // before the page says that all is done
  current = null;
  busy("idle");
  gauge();
  toEnd(false);
  look();
}

/** Asks for an answer to as much of the conversation as the model takes. */
async function rolled(m, asked, on) {
  const context = model()?.context ?? 0;
  const system = settings.system ? [{ role: "system", content: settings.system }] : [];
  const per = filled().per;
  const room = context > 0 ? context - roll.reserve(context) - (system.length > 0 ? roll.estimate(settings.system, per) : 0) : Infinity;
  for (let from = roll.begin(asked, room, per); ;) {
    const messages = [...system, ...asked.slice(from)];
    const request = { model: $("model").value, temperature: Number(settings.temperature), messages };
    if (settings.maxTokens) request.max_tokens = Number(settings.maxTokens);
    Object.assign(m.meta, { left: from, context });
    try {
      return await api.chat(request, current.abort.signal, (chunk) => {
        const prompt = chunk.shoal?.start?.prompt_tokens?.length;
        if (prompt > 0) Object.assign(m.meta, { prompt, per: roll.learn(messages.map((x) => x.content), prompt) });
        on(chunk);
      });
    } catch (err) {
      const next = err.code === "context_length_exceeded" && m.content === "" ? roll.shorter(asked, from) : -1;
      if (next < 0) throw err;
      from = next;
    }
  }
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

  constructor(m, li) {
    this.m = m;
    this.li = li;
    this.foot = li.querySelector(".wake");
    this.began = performance.now();
  }

  take(d) {
    if (d.start) this.#start(d.start);
    if (d.tokens) this.#tokens(d.tokens.length);
    if (d.repair) this.#repair(d.repair);
    if (d.done) this.#done(d.done);
  }

  #start(s) {
    learnNames(s.route);
    route = { hops: s.route, costs: s.costs ?? null, live: true };
    figures = { rate: 0, predicted: s.predicted_tokens_per_s, ttft: performance.now() - this.began, predictedTtft: s.predicted_ttft_ms, tokens: 0, repairs: 0, stall: 0, kept: 0 };
    Object.assign(this.m.meta, { model: s.name, predicted: s.predicted_tokens_per_s, stages: s.route.length });
    note(this.li, this.m);
    wake(this.foot, this.m);
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
    learnNames(r.route ?? []);
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
      const last = { token: r.token, lost: replaced.length > 0 ? replaced : (open?.lost ?? []), by, stall: r.stall_ms, engines: r.engines, mended: true };
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
    Object.assign(this.m.meta, { rate: d.tokens_per_s, ttft: d.ttft_ms, note: d.note, tokens: d.tokens, ahead: d.ahead });
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
  $("remember").checked = api.key.remembered();
  $("theme-choice").value = kept.get("theme", "");
  $("system").value = settings.system;
  $("temperature").value = settings.temperature;
  $("max-tokens").value = settings.maxTokens;
  $("dialog").showModal();
}

function takeSettings() {
  api.key.set($("key").value.trim(), $("remember").checked);
  const t = Number($("temperature").value);
  settings.system = $("system").value.trim();
  settings.temperature = $("temperature").value !== "" && t >= 0 && t <= 2 ? t : 0.7;
  const n = Math.floor(Number($("max-tokens").value));
  settings.maxTokens = n >= 1 ? n : "";
  kept.set("settings", settings);
  $("dialog-why").hidden = true;
  asked = 0;
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

/** Shows a conversation; the one that was shown is kept. */
function openChat(which) {
  stop();
  chat = which;
  kept.set("open", chat.id);
  route = figures = null;
  endEdit();
  files.set([]);
  showAll();
  redraw();
}

function removeChat(gone) {
  chats.remove(gone.id);
  if (gone.id === chat.id) openChat(fresh());
  undo(`Deleted: ${title(gone)}`, async () => {
    await chats.restore(gone).catch((err) => trouble(err.message));
    list.draw();
    if (chat.messages.length === 0) openChat(gone);
  });
}

let undoing = 0;

/** Says what was done, and lets it be undone for a while. */
function undo(text, act) {
  clearTimeout(undoing);
  const toast = $("toast");
  const end = () => (toast.hidden = true);
  const open = document.querySelector("dialog[open]");
  (open ?? document.body).append(toast); // what is outside of a dialog cannot be reached
  toast.hidden = false;
  say(toast.firstElementChild, text);
  toast.lastElementChild.onclick = () => {
    end();
    act();
  };
  undoing = setTimeout(end, 20000);
}

async function forgetAll() {
  await chats.clear();
  for (const name of ["settings", "theme", "open", "chat"]) localStorage.removeItem("shoal." + name);
  Object.assign(settings, { model: "", system: "", temperature: 0.7, maxTokens: "" });
  $("key").value = $("system").value = $("max-tokens").value = "";
  $("temperature").value = 0.7;
  setTheme("");
  openChat(fresh());
  announce("Everything that was kept in this browser is gone.");
}

const files = new Files($("files"), trouble);
const list = new ChatList($("chats"), chats, { open: openChat, changed: keep, removed: removeChat }, () => chat.id);

$("send").addEventListener("click", send);
$("prompt").addEventListener("input", grow);
$("prompt").addEventListener("keydown", (e) => {
  if (e.key !== "Enter" || e.shiftKey || e.isComposing) return;
  e.preventDefault();
  if (!current) send();
});
document.addEventListener("keydown", (e) => {
  if (e.key !== "Escape" || document.querySelector("dialog[open]")) return;
  if (current) stop();
  else if (editing >= 0) {
    endEdit();
    $("prompt").value = "";
    files.set([]);
    grow();
  }
});
$("noedit").addEventListener("click", () => {
  endEdit();
  $("prompt").value = "";
  files.set([]);
  grow();
  $("prompt").focus();
});
$("new").addEventListener("click", () => {
  openChat(fresh());
  announce("A new conversation. The earlier one is kept.");
  show("chat");
  $("prompt").focus();
});
$("history").addEventListener("click", () => list.show());
$("chats").addEventListener("close", () => document.body.append($("toast")));
$("forget").append(sureButton("Forget everything", "Really everything?", forgetAll, { id: "forget-all" }));
$("unown").addEventListener("click", async () => {
  await api.leaveOwner();
  asked = 0;
  look();
  $("unown").hidden = true;
});
$("add-model").addEventListener("click", () => {
  $("adding").showModal();
  redraw();
});
for (const b of document.querySelectorAll("button.invite")) b.addEventListener("click", openInvite);
for (const b of document.querySelectorAll("[data-close]")) b.addEventListener("click", () => b.closest("dialog").close());
$("attach").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", async () => {
  await files.add($("file").files);
  $("file").value = "";
  $("prompt").focus();
});
$("prompt").addEventListener("paste", (e) => {
  const text = e.clipboardData?.getData("text/plain") ?? "";
  if (e.clipboardData?.files.length > 0) {
    e.preventDefault();
    files.add(e.clipboardData.files);
  } else if (text.length > longPaste) {
    e.preventDefault();
    files.addText(text);
    announce("The long text was attached as a file.");
  }
});
document.addEventListener("dragover", (e) => {
  if (![...(e.dataTransfer?.types ?? [])].includes("Files")) return;
  e.preventDefault(); // or the browser leaves the page for the file
  document.body.classList.add("dragging");
});
document.addEventListener("dragleave", (e) => e.relatedTarget === null && document.body.classList.remove("dragging"));
document.addEventListener("drop", (e) => {
  document.body.classList.remove("dragging");
  if (!e.dataTransfer?.files.length) return;
  e.preventDefault();
  show("chat");
  files.add(e.dataTransfer.files);
});
$("settings").addEventListener("click", openDialog);
$("done").addEventListener("click", () => $("dialog").close());
$("dialog").addEventListener("close", takeSettings);
$("theme-choice").addEventListener("change", () => setTheme($("theme-choice").value));
$("theme").addEventListener("click", () => setTheme({ "": "light", light: "dark", dark: "" }[kept.get("theme", "")] ?? ""));
$("model").addEventListener("change", () => {
  settings.model = $("model").value;
  kept.set("settings", settings);
  route = figures = null;
  redraw();
});
$("log").addEventListener("scroll", scrolled);
for (const kind of ["wheel", "touchmove", "pointerdown", "keydown"]) { // pointerdown: on the scroll bar
  $("log").addEventListener(kind, () => (touched = performance.now()), { passive: true });
}
$("latest").addEventListener("click", () => toEnd(true));
const resized = new ResizeObserver(() => toEnd(false));
resized.observe($("messages")); // answers are drawn a frame later
resized.observe($("log"));
for (const b of document.querySelectorAll("nav button")) b.addEventListener("click", () => show(b.dataset.view));
document.addEventListener("visibilitychange", () => !document.hidden && look());

window.addEventListener("hashchange", () => takeLink().then(look));

/** Takes over the one conversation that earlier versions kept, and opens the last. */
async function begin() {
  await chats.load();
  const old = kept.get("chat", null);
  if (Array.isArray(old) && old.length > 0) {
    await keep({ ...fresh(), messages: old.filter((m) => typeof m?.content === "string" && ["user", "assistant"].includes(m.role)) });
    localStorage.removeItem("shoal.chat");
  }
  if (chat.messages.length === 0) openChat(chats.get(kept.get("open", "")) ?? fresh());
  await takeLink();
  look();
}

manage.setup(() => view && redraw(), announce);
setTheme(themes[kept.get("theme", "")] ? kept.get("theme", "") : "");
busy("idle");
grow();
$("prompt").focus({ preventScroll: true });
begin();
