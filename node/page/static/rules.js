// The rules of lending, changed while the node runs.

import * as api from "./api.js";
import { h, say } from "./dom.js";

// Of all settings, those that a lender changes: [name, label, what to write].
const fields = [
  ["memory", "Memory", "such as 8GiB"],
  ["lend-hours", "Hours", "such as 22:00-07:00"],
  ["lend", "Who may have what", "such as strangers: share 20%; sessions 2"],
  ["use", "Your prompts go to", "mine, swarm or anybody"],
  ["pause-load", "Pause when others use", "such as 40%; 0: never"],
  ["up", "Upload, at most", "such as 20mbit"],
  ["quota", "Disk for models", "such as 50GiB"],
];
const pause = "pause";

const written = (v) => (v === null || v === undefined ? "" : Array.isArray(v) ? v.join(", ") : String(v));

export class Rules {
  #settings = null;

  /** done is called when something has changed. */
  constructor(el, done) {
    this.done = done;
    this.buttons = h("div", { class: "row-actions" });
    this.form = h("form", { class: "rules", onsubmit: (e) => { e.preventDefault(); this.#save(); } });
    this.note = h("p", { class: "fine", role: "status" });
    el.append(this.buttons, this.form, this.note);
  }

  async load() {
    if (this.#settings) return;
    this.#settings = new Map();
    try {
      this.#settings = new Map((await api.settings()).settings.map((x) => [x.name, x]));
      say(this.note, "");
    } catch (err) {
      this.#settings = null;
      return say(this.note, err.status === 404 ? "" : err.message);
    }
    this.#draw();
  }

  /** What is shown of a node that lends or does not, to its owner or to others. */
  show(view, mine) {
    this.form.hidden = !mine;
    if (mine) this.load();
    else this.#settings = null;
    const now = JSON.stringify([view.lending.open, view.lending.paused, mine, this.#settings?.has(pause)]);
    if (now === this.shown) return;
    this.shown = now;
    if (!mine || !this.#settings?.has(pause)) return this.buttons.replaceChildren();
    const b = (key, label, change) => h("button", { type: "button", class: "small", "data-key": key, onclick: () => this.#change(change) }, label);
    this.buttons.replaceChildren(...(view.lending.paused
      ? [b("resume", "Resume lending", { unset: [pause] })]
      : [b("pause", "Pause lending", { set: { [pause]: "on" } }), b("hour", "Pause for an hour", { set: { [pause]: "hour" } })]));
  }

  #draw() {
    this.inputs = new Map();
    const rows = fields.filter(([name]) => this.#settings.has(name)).map(([name, label, hint]) => {
      const x = this.#settings.get(name);
      const input = h("input", { type: "text", autocomplete: "off", spellcheck: "false", "aria-describedby": "rule-" + name });
      input.placeholder = { "": { "lend-hours": "always", memory: "half of the machine's", lend: "strangers: share 20%", use: "anybody" }[name] ?? "no limit" }[written(x.default)] ?? written(x.default);
      input.value = x.from === "default" ? "" : written(x.next ?? x.value);
      this.inputs.set(name, [input, input.value]);
      return h("label", null, label, input, h("small", { id: "rule-" + name }, [hint, x.live ? null : "from the next start on"].filter(Boolean).join("; ")));
    });
    this.form.replaceChildren(...rows, rows.length > 0 ? h("div", { class: "actions" }, h("button", { type: "submit", class: "small main" }, "Save")) : "");
    this.shown = "";
    this.done();
  }

  #save() {
    const set = {};
    const unset = [];
    for (const [name, [input, before]] of this.inputs) {
      const now = input.value.trim();
      if (now === before) continue;
      if (now === "") unset.push(name);
      else set[name] = now;
    }
    if (Object.keys(set).length + unset.length === 0) return say(this.note, "Nothing was changed.");
    this.#change({ set, unset });
  }

  async #change(change) {
    say(this.note, "saving …");
    if (change.set?.[pause] === "hour") change.set[pause] = new Date(Date.now() + 3600e3).toISOString().replace(/\.\d+/, "");
    try {
      const r = await api.changeSettings(change);
      const told = [r.applied.length > 0 ? "In effect now." : "", r.restart.length > 0 ? `From the next start on: ${r.restart.join(", ")}.` : "", ...(r.overridden ?? []).map((o) => `${o.name}: ${o.why}`)];
      this.#settings = null;
      await this.load();
      say(this.note, told.filter(Boolean).join(" "));
    } catch (err) {
      say(this.note, err.message);
    }
    this.done();
  }
}
