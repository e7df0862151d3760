// What stands beside the picture: the route hop by hop, models, this node.

import { h, say } from "./dom.js";
import { job, jobLine, jobsNow, modelActions } from "./manage.js";
import { served, uncovered } from "./picture.js";
import { bytes, company, count, many, ms, rate, short, span, time, who } from "./text.js";

const seen = new WeakMap();

/**
 * Replaces an element's content if what it is made of has changed. The focus stays at
 * the element with the same data-key, and a question that a button asks is not cut short.
 */
export function render(el, data, make) {
  const now = JSON.stringify(data);
  if (seen.get(el) === now || el.querySelector(".ask")) return;
  seen.set(el, now);
  const at = el.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  el.replaceChildren(...make());
  if (at) el.querySelector(`[data-key="${CSS.escape(at)}"]`)?.focus();
}

const $ = (id) => document.getElementById(id);

/** Three figures: predicted and actual rate, first token. figures may be null. */
export function gauges(f) {
  const one = (label, value, unit, note) => h("div", { class: "gauge" }, h("span", { class: "label" }, label), h("b", null, value, h("small", null, " " + unit)), h("span", { class: "note" }, note || "\u00a0"));
  render($("gauges"), f, () => f === null ? [] : [
    one("Speed", f.rate > 0 ? rate(f.rate) : "–", "tokens/s", `predicted ${rate(f.predicted)}`),
    one("First token", f.ttft > 0 ? (f.ttft >= 1000 ? (f.ttft / 1000).toFixed(1) : f.ttft.toFixed(0)) : "–", f.ttft >= 1000 ? "s" : "ms", `predicted ${ms(f.predictedTtft)}`),
    one("Answer", String(f.tokens), f.tokens === 1 ? "token" : "tokens", f.repairs > 0 ? `${many(f.repairs, "repair")}, ${ms(f.stall)} lost` : f.kept > 0 ? `${f.kept} of the prompt kept` : ""),
  ]);
}

/** What a block is, where blocks are first seen. */
export function blocksNote(model) {
  const n = model?.blocks ?? 0;
  $("blocks-note").hidden = n === 0;
  if (n > 0) say($("blocks-note"), `A model is a chain of layers, called blocks: this one has ${n}. Each node computes some of them; “0–${Math.ceil(n / 2)}” means block 0 and so on, up to before block ${Math.ceil(n / 2)}.`);
}

/** The route as a list: the picture in words. */
export function hops(route, view, lost) {
  const list = route?.hops ?? [];
  const most = Math.max(1e-9, ...(route?.costs ?? []).map((c) => c.compute_ms + c.next_ms));
  render($("hops"), [list, route?.costs, route?.live, list.map((hop) => who(view, hop.peer)), [...lost]], () => list.map((hop, i) => {
    const cost = route.costs?.[i];
    const gone = lost.has(hop.peer);
    const bar = h("span", { class: "bar", "aria-hidden": "true" });
    if (cost) {
      for (const [kind, v] of [["compute", cost.compute_ms], ["net", cost.next_ms]]) {
        const part = h("i", { class: kind });
        part.style.width = `${(100 * v) / most}%`;
        bar.append(part);
      }
    }
    return h("li", { class: gone ? "lost" : route.live ? "live" : "" },
      h("span", { class: "who" }, h("code", { title: hop.peer }, who(view, hop.peer)), h("span", { class: "blocks" }, span(hop) + (["trusted", "new"].includes(hop.trust) ? ` · ${hop.trust}` : "") + (hop.swarm_name ? ` · ${hop.swarm_name}` : ""))), bar,
      h("span", { class: "cost" }, gone ? "lost" : cost ? `${cost.compute_ms.toFixed(1)} + ${ms(cost.next_ms)}` : ""));
  }));
}

/** Who serves the model, in words. */
export function nodes(view, model, lost) {
  const list = served(view, model);
  const peers = new Map(view.peers.map((p) => [p.peer, p]));
  const data = list.map((f) => [f.key, who(view, f.peer), f.ready, f.silent, lost.has(f.peer), f.sessions, f.kv_free, f.rtt_ms?.toFixed(0), f.step_ms.toFixed(1), f.engine]);
  render($("nodes"), data, () => list.slice(0, mostNodes).map((f) => {
    const p = peers.get(f.peer);
    const facts = [
      lost.has(f.peer) ? "lost by the route" : f.silent ? "silent" : f.ready ? null : f.loaded ? "not proven yet" : "loading",
      f.peer === view.peer ? null : f.rtt_ms ? `${ms(f.rtt_ms)} away` : "distance unknown", p?.relayed ? "over a relay" : null,
      f.ready ? `${f.step_ms.toFixed(1)} ms per token` : null, f.sessions ? many(f.sessions, "session") : null,
      f.kv_tokens ? `${Math.round((100 * f.kv_free) / f.kv_tokens)} % of its session memory free` : null, p?.device || null, f.engine || null,
    ].filter(Boolean);
    return h("li", { class: lost.has(f.peer) || f.silent ? "lost" : "" }, h("code", { title: f.peer }, who(view, f.peer)), h("span", { class: "blocks" }, span(f)), h("span", { class: "facts" }, facts.join(" · ")));
  }).concat(list.length > mostNodes ? h("li", null, `and ${list.length - mostNodes} more`) : []));
  $("nodes-title").hidden = list.length === 0;
}

const mostNodes = 60;

/** Where a token's time goes: computing, on the way, and what was unforeseen. */
export function where(route, f) {
  const costs = route?.costs ?? [];
  const sum = (name) => costs.reduce((n, c) => n + c[name], 0);
  const compute = sum("compute_ms");
  const net = sum("next_ms");
  const actual = f && f.rate > 0 ? 1000 / f.rate : 0;
  const other = Math.max(0, actual - compute - net);
  render($("where"), costs.length === 0 ? null : [compute.toFixed(2), net.toFixed(2), other.toFixed(1)], () => {
    if (costs.length === 0) return [];
    const parts = [["compute", "computing", compute], ["net", "on the way", net], ["other", "unforeseen", other]];
    const total = parts.reduce((n, p) => n + p[2], 0) || 1;
    const bar = h("div", { class: "stack", "aria-hidden": "true" });
    for (const [kind, , v] of parts) {
      const i = h("i", { class: kind });
      i.style.width = `${(100 * v) / total}%`;
      bar.append(i);
    }
    return [h("h3", null, "A token's time"), bar, h("p", { class: "legend" }, ...parts.filter((p) => p[2] > 0).map(([kind, name, v]) => h("span", { class: kind }, `${name} ${ms(v)}`)))];
  });
}

/** A model's blocks as a strip: held here, served by others, by nobody. */
function strip(m, view) {
  const n = m.blocks || 1;
  const spans = served(view, m);
  const el = h("div", { class: "strip", role: "img", "aria-label": `${spans.length === 0 ? "Served by nobody" : uncovered(spans, n).length === 0 ? "All blocks are served" : "Some blocks are served by nobody"}` });
  const put = (kind, a, b, level = 1) => {
    const i = h("i", { class: kind });
    i.style.left = `${(100 * a) / n}%`;
    i.style.width = `${(100 * (b - a)) / n}%`;
    if (level !== 1) i.style.opacity = level;
    el.append(i);
  };
  for (let b = 0; b < n; b++) {
    const copies = spans.filter((f) => f.ready && f.from <= b && b < f.to).length;
    if (copies > 0) put("served", b, b + 1, Math.min(1, 0.45 + 0.2 * copies));
  }
  for (const held of m.held) {
    const x = /^(\d+)-(\d+)$/.exec(held);
    if (x) put("held", Number(x[1]), Number(x[2]));
  }
  return el;
}

export function models(view, chosen, mine) {
  const made = view.models.map((m) => ({ m, spans: served(view, m).map((f) => [f.key, f.ready, f.silent]) }));
  render($("model-list"), [made, chosen, mine, jobsNow(), view.light, view.serving.map((v) => v.model + v.name)], () => view.models.length === 0 ? [h("li", { class: "fine" }, "No model is here yet, and no peer offers one.")] : view.models.map((m) => {
    const spans = served(view, m);
    const gaps = uncovered(spans, m.blocks || 0);
    const facts = [m.architecture, m.quantization, m.parameters && `${count(m.parameters)} parameters`, m.context && `context ${count(m.context)}`, m.size && bytes(m.size)].filter(Boolean);
    const servers = new Set(spans.filter((f) => f.ready).map((f) => f.peer)).size;
    const f = m.fetching;
    const j = job(m.id, m.name);
    return h("li", { class: m.id === chosen ? "chosen" : "" },
      h("div", { class: "title" }, h("b", null, m.name || m.id.slice(-12)), spans.length === 0 ? h("span", { class: "tag" }, "not served") : gaps.length > 0 ? h("span", { class: "tag bad" }, `nobody serves blocks ${gaps.slice(0, 3).map(span).join(", ")}`) : h("span", { class: "tag good" }, `${many(servers, "node")} serve it`.replace("node serve", "node serves"))),
      h("p", { class: "fine" }, facts.join(" · ")),
      m.blocks ? strip(m, view) : null,
      f && !j ? h("div", { class: "fetch" }, progress(f), h("span", null, `fetching ${bytes(f.done)} of ${bytes(f.total)}${f.sources ? ` from ${many(f.sources, "source")}` : ""}`)) : null,
      h("p", { class: "fine" }, [m.complete ? "whole here" : m.held.length > 0 ? `here: ${held(m.held)}` : "nothing of it here", m.allocated ? `${bytes(m.allocated)} on disk` : null, m.pinned ? "pinned: it stays, whatever the disk limit" : null,
        m.holders?.length ? `${many(m.holders.length, "peer")} can give parts of it` : null].filter(Boolean).join(" · ")),
      j ? jobLine(m.id, j) : null,
      modelActions(m, view, mine));
  }));
}

const held = (list) => list.map((x) => (/^\d/.test(x) ? "blocks " + x.replace("-", "–") : x)).join(", ");

function progress(f) {
  const bar = h("div", { class: "progress", role: "progressbar", "aria-label": "fetching", "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": Math.floor((100 * f.done) / Math.max(1, f.total)) }, h("i"));
  bar.firstChild.style.width = `${(100 * f.done) / Math.max(1, f.total)}%`;
  return bar;
}

export function node(view, owner) {
  say($("node-name"), short(view.peer));
  const l = view.lending;
  const data = { ...view, owner, peers: view.peers.length, links: 0, models: 0, uptime_ns: Math.floor(view.uptime_ns / 6e10) };
  render($("node-body"), data, () => {
    const rows = [];
    const row = (name, ...value) => rows.push(h("dt", null, name), h("dd", null, ...value));
    if (view.light) {
      row("Lends", "nothing: a light client, which only asks");
      row("Asks", company(view, owner));
    } else {
      row("Lends now", l.open ? h("span", { class: "good" }, "yes") : h("span", { class: "bad" }, `no: ${l.why}`));
      row("To whom", company(view, owner));
      row("Memory", bytes(l.memory));
      row("Threads", `${l.threads || "as many as help"}${l.nice ? ", behind other programs" : ""}`);
      if (l.devices?.length) row("Devices", l.devices.join(", "));
      row("Hours", l.hours || "always");
      row("Pauses", [l.pause_load > 0 ? `when others use ${Math.round(100 * l.pause_load)} % of the machine` : "never for load", l.on_battery ? null : "on battery"].filter(Boolean).join(", "));
      row("Resumes", `after ${time(l.resume_s || 120)} of quiet`);
      row("Sessions", `at most ${l.max_sessions} at once per model`);
      const engine = view.serving.find((v) => v.fence || v.unfenced);
      if (engine) row("Engine's fence", [(engine.fence || []).join(", "), ...(engine.unfenced || []).map((v) => `not ${v}`)].filter(Boolean).join("; "));
      row("Disk", l.quota ? `${bytes(l.quota)} without a pin` : "no limit");
    }
    row("Models sent", bytes(view.bytes_given));
    row("Received", bytes(view.bytes_taken));
    row("Running for", `${time(view.uptime_ns / 1e9)}, version ${view.version}`);
    const spans = view.serving.map((v) => {
      const used = v.kv_tokens - v.kv_free;
      const bar = h("div", { class: "progress", "aria-hidden": "true" }, h("i"));
      bar.firstChild.style.width = `${(100 * used) / Math.max(1, v.kv_tokens)}%`;
      return h("li", null, h("div", { class: "title" }, h("b", null, v.name, v.to > v.from ? ` blocks ${span(v)}` : ""), h("span", { class: v.ready ? "tag good" : "tag" }, v.state)),
        v.kv_tokens ? bar : null,
        v.kv_tokens ? h("p", { class: "fine" }, [many(v.sessions, "session"), `room for ${count(v.kv_free)} of ${count(v.kv_tokens)} tokens`, bytes(v.memory), v.engine || null, v.step_ms ? `${ms(v.step_ms)} per step` : null, v.tokens_per_s ? `${rate(v.tokens_per_s)} tokens/s` : null].filter(Boolean).join(" · ")) : null,
        v.engine_trouble ? h("p", { class: "warn" }, v.engine_trouble) : null);
    });
    return [spans.length > 0 ? h("ul", { class: "spans" }, ...spans) : null, h("dl", null, ...rows), ...(view.warnings ?? []).map((w) => h("p", { class: "warn" }, w))].filter(Boolean);
  });
}
