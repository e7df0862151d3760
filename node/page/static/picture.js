// The network as a picture. Its width is the model, from the first block to the
// last; each node that serves some of it is a fish as long as its span, and an
// answer's route is the current that runs through the fish it takes.

import { h, s, say } from "./dom.js";
import { many, ms, short, span, who } from "./text.js";

const left = 34; // where the asker is
const right = 16;
const rowHeight = 40;
const fishHeight = 28;
const top = 26;
const letter = 6.5; // width of one in a fish's name
const ghostLife = 5000; // ms that a node is still shown, fading, when it has gone

const key = (peer, x) => `${peer} ${x.from} ${x.to}`;

export class Picture {
  #fish = new Map(); // key -> {el, lane, gone}
  #offset = 0;
  #shape = ""; // of the last drawing of the route
  #state = null;

  constructor(el) {
    this.water = s("g", { class: "water" });
    this.route = s("g", { class: "route" });
    this.shoal = s("g", { class: "shoal" });
    this.marks = s("g", { class: "marks" });
    this.title = s("title", null, "The nodes that serve the model, and the route of the answer. The list below says the same.");
    this.svg = s("svg", { role: "img" }, this.title, this.water, this.route, this.shoal, this.marks);
    this.others = h("p", { class: "others" });
    el.append(this.svg, this.others);
    this.box = el;
    new ResizeObserver(() => this.#state && this.draw(this.#state)).observe(el);
  }

  /**
   * state: {view, model: {id, blocks}, route: {hops, costs, live} or null, lost: Set of peers}
   */
  draw(state) {
    this.#state = state;
    const { view, model, route, lost } = state;
    const width = this.box.clientWidth;
    if (width === 0) return; // not shown
    const blocks = model?.blocks ?? 0;
    const spans = served(view, model);
    const x = (block) => left + ((width - left - right) * block) / Math.max(1, blocks);
    const shortest = Math.min(...spans.map((f) => x(f.to) - x(f.from)), width);
    const inset = Math.min(24, shortest * 0.18);
    this.#assign(spans);
    const rows = Math.max(1, ...[...this.#fish.values()].map((f) => f.lane + 1));
    const height = top + rows * rowHeight + 34;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.setAttribute("width", width);
    this.svg.setAttribute("height", height);

    const on = new Map((route?.hops ?? []).map((hop, i) => [key(hop.peer, hop), i]));
    const now = Date.now();
    const there = new Set();
    for (const f of spans) {
      there.add(f.key);
      const fish = this.#fish.get(f.key);
      fish.gone = 0;
      this.#drawFish(fish, f, x(f.from) + inset, x(f.to) - inset, {
        on: on.has(f.key), live: route?.live && on.has(f.key), lost: lost.has(f.peer), silent: f.silent, self: f.peer === view.peer, unready: !f.ready, name: who(view, f.peer),
      });
    }
    for (const [k, fish] of this.#fish) {
      if (there.has(k)) continue;
      fish.gone ||= now;
      fish.el.classList.add("gone");
      fish.el.classList.remove("on", "live");
      if (now - fish.gone > ghostLife) {
        fish.el.remove();
        this.#fish.delete(k);
      }
    }
    this.#drawRoute(route, x, inset, rows);
    this.#drawMarks(spans, blocks, x, height);
    this.#drawOthers(view, model);
  }

  /** A token has come: the current moves on. */
  flow() {
    this.#offset -= 12;
    for (const p of this.route.querySelectorAll(".current")) p.style.strokeDashoffset = this.#offset;
  }

  /** Gives each span the first lane that is free along all of it, for as long as it is there. */
  #assign(spans) {
    for (const f of spans) {
      if (this.#fish.has(f.key)) continue;
      const taken = new Set([...this.#fish.values()].filter((o) => o.from < f.to && f.from < o.to && !o.gone).map((o) => o.lane));
      let lane = 0;
      while (taken.has(lane)) lane++;
      const el = s("g", { class: "fish new", "data-peer": f.peer, "data-span": span(f) },
        s("title"), s("path", { class: "body" }), s("circle", { class: "eye", r: 1.8 }), s("text", { class: "name" }), s("text", { class: "note" }));
      this.shoal.append(el);
      requestAnimationFrame(() => requestAnimationFrame(() => el.classList.remove("new")));
      this.#fish.set(f.key, { el, lane, from: f.from, to: f.to, gone: 0 });
    }
  }

  #drawFish(fish, f, x0, x1, is) {
    const { el } = fish;
    for (const name of ["on", "live", "lost", "silent", "self", "unready"]) el.classList.toggle(name, Boolean(is[name]));
    el.classList.remove("gone");
    const w = Math.max(14, x1 - x0);
    fish.x0 = x0;
    fish.x1 = x0 + w;
    fish.y = top + fish.lane * rowHeight + rowHeight / 2;
    const half = fishHeight / 2;
    const nose = Math.min(22, w * 0.4);
    const fin = Math.min(9, w * 0.2);
    el.style.transform = `translate(${x0}px, ${fish.y}px)`;
    const [title, body, eye, name, note] = el.children;
    // Tail to the left, where the current comes from.
    body.setAttribute("d", `M0 ${-half + 3}q${fin * 0.5} 0 ${fin} ${3}C${fin + 4} ${-half} ${w * 0.3} ${-half} ${w - nose} ${-half}Q${w - 4} ${-half + 2} ${w} 0Q${w - 4} ${half - 2} ${w - nose} ${half}C${w * 0.3} ${half} ${fin + 4} ${half} ${fin} ${half - 6}q${-fin * 0.5} 3 ${-fin} 3L${fin * 0.6} 0z`);
    eye.setAttribute("cx", w - nose * 0.45);
    eye.setAttribute("cy", -4);
    eye.style.display = w < 26 ? "none" : "";
    const room = w - fin - nose * 0.7;
    name.setAttribute("x", fin + room / 2);
    name.setAttribute("y", room > 50 ? -1 : 4);
    const longest = Math.floor((room - 4) / letter);
    const near = is.self ? (longest < 4 ? "me" : "this") : f.peer.slice(-3);
    say(name, is.name.length <= longest ? is.name : !is.self && longest >= 7 ? (is.name.startsWith("…") ? short(f.peer) : is.name.slice(0, longest - 1) + "…") : near.length <= longest ? near : "");
    note.setAttribute("x", fin + room / 2);
    note.setAttribute("y", 10);
    say(note, room > 50 ? (is.lost ? "lost" : is.silent ? "silent" : f.ready ? `${f.step_ms.toFixed(1)} ms` : f.loaded ? "unproven" : "loading") : "");
    say(title, `${f.peer}${is.self ? " (this node)" : ""}\nblocks ${span(f)}${f.rtt_ms ? `, ${ms(f.rtt_ms)} away` : ""}\n${f.ready ? `${f.step_ms.toFixed(1)} ms per token, ${many(f.sessions, "session")}, ${f.kv_free} of ${f.kv_tokens} tokens free` : "not ready"}`);
  }

  #drawRoute(route, x, inset, rows) {
    const hops = (route?.hops ?? []).map((hop) => ({ hop, fish: this.#fish.get(key(hop.peer, hop)) }));
    const back = top + rows * rowHeight + 4;
    const home = { x: 14, y: top + (rows * rowHeight) / 2 };
    const shape = JSON.stringify([hops.map((p) => [p.hop, p.fish?.y, p.fish?.x0, p.fish?.x1]), route?.costs, route?.live, route?.repairing, back, x(1)]);
    if (shape === this.#shape) return;
    this.#shape = shape;
    const ask = s("g", { class: "home" }, s("circle", { cx: home.x, cy: home.y, r: 7 }), s("text", { x: home.x, y: home.y + 20 }, "you"));
    if (hops.length === 0) return this.route.replaceChildren(ask);
    let d = `M${home.x} ${home.y}`;
    let at = home;
    const labels = [];
    hops.forEach(({ fish }, i) => {
      const to = fish ? { x: fish.x0, y: fish.y } : { x: x(hops[i].hop.from) + inset, y: home.y };
      const end = fish ? { x: fish.x1, y: fish.y } : { x: x(hops[i].hop.to) - inset, y: home.y };
      const mid = (at.x + to.x) / 2;
      d += `C${mid} ${at.y} ${mid} ${to.y} ${to.x} ${to.y}L${end.x} ${end.y}`;
      const cost = route.costs?.[i - 1];
      if (i > 0 && cost && to.x - at.x > 36) labels.push(s("text", { x: mid, y: (at.y + to.y) / 2 - (Math.abs(at.y - to.y) < 8 ? 6 : 0) }, ms(cost.next_ms)));
      at = end;
    });
    const round = 10;
    const first = hops[0].fish?.x0 ?? left;
    const ret = `M${at.x} ${at.y}C${at.x + 16} ${at.y} ${at.x + 16} ${back} ${at.x - round} ${back}L${first} ${back}Q${home.x} ${back} ${home.x} ${home.y + 26}`;
    const last = route.costs?.at(-1);
    if (last && hops.length > 1) labels.push(s("text", { x: (first + at.x) / 2, y: back + 15 }, `token back to the first: ${ms(last.next_ms)}`));
    const live = route.repairing ? " broken" : route.live ? " live" : "";
    this.route.replaceChildren(
      s("path", { class: "bed" + live, d: d + ret }), s("path", { class: "current" + live, d: d + ret }), s("g", { class: "lat" }, ...labels), ask,
    );
    for (const p of this.route.querySelectorAll(".current")) p.style.strokeDashoffset = this.#offset;
  }

  #drawMarks(spans, blocks, x, height) {
    if (blocks === 0) return this.water.replaceChildren();
    const cuts = [...new Set([0, blocks, ...spans.flatMap((f) => [f.from, f.to])])].sort((a, b) => a - b);
    const kids = [];
    let before = -100;
    for (const c of cuts) {
      if (x(c) - before < 20 && c !== blocks) continue;
      kids.push(s("line", { x1: x(c), x2: x(c), y1: 20, y2: height - 30 }), s("text", { x: x(c), y: 14 }, String(c)));
      before = x(c);
    }
    for (const gap of uncovered(spans, blocks)) {
      kids.push(s("rect", { class: "gap", x: x(gap.from), width: x(gap.to) - x(gap.from), y: 20, height: height - 50, rx: 6 }),
        s("text", { class: "gap", x: (x(gap.from) + x(gap.to)) / 2, y: height - 36 }, "nobody"));
    }
    this.water.replaceChildren(...kids);
  }

  #drawOthers(view, model) {
    const serving = new Set(served(view, model).map((f) => f.peer));
    const rest = view.peers.filter((p) => !serving.has(p.peer));
    say(this.others, rest.length === 0 ? "" : `${many(rest.length, "more peer")} here: ${rest.slice(0, 4).map((p) => who(view, p.peer)).join(", ")}${rest.length > 4 ? " …" : ""}`);
  }
}

/** Spans of a model and who serves them, this node included, in the order of blocks. */
export function served(view, model) {
  if (!model) return [];
  const own = view.serving.filter((v) => v.model === model.id && v.to > v.from)
    .map((v) => ({ ...v, peer: view.peer, loaded: v.ready || v.memory > 0, silent: false }));
  const others = view.peers.flatMap((p) => p.spans.filter((v) => v.model === model.id).map((v) => ({ ...v, peer: p.peer, silent: p.silent, rtt_ms: p.rtt_ms })));
  return [...own, ...others].map((f) => ({ ...f, key: key(f.peer, f) })).sort((a, b) => a.from - b.from || a.to - b.to || (a.peer < b.peer ? -1 : 1));
}

/** Blocks that nobody serves. */
export function uncovered(spans, blocks) {
  const gaps = [];
  let at = 0;
  for (const f of spans.filter((f) => f.ready && !f.silent)) {
    if (f.from > at) gaps.push({ from: at, to: f.from });
    at = Math.max(at, f.to);
  }
  if (at < blocks) gaps.push({ from: at, to: blocks });
  return gaps;
}
