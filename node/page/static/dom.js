// Elements, made one by one: no text is ever parsed as HTML.

import { Blocks, tree } from "./markdown.js";

const svgNS = "http://www.w3.org/2000/svg";

function fill(el, props, kids) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) el.addEventListener(name.slice(2), value);
    else el.setAttribute(name, value === true ? "" : String(value));
  }
  el.append(...kids.flat().filter((k) => k !== null && k !== undefined && k !== false));
  return el;
}

/** An HTML element of the page's own: names and attributes are never a model's. */
export function h(tag, props, ...kids) {
  return fill(document.createElement(tag), props, kids);
}

/** The same in SVG. */
export function s(tag, props, ...kids) {
  return fill(document.createElementNS(svgNS, tag), props, kids);
}

/** Sets a text if it differs: what does not change costs nothing. */
export function say(el, text) {
  if (el.textContent !== text) el.textContent = text;
}

// The only elements that an answer can become.
const kinds = new Set("p h1 h2 h3 h4 h5 h6 ul ol li blockquote pre code table thead tbody tr th td strong em del a br hr span".split(" "));

/** Makes elements of a tree of markdown.js. */
export function build(nodes) {
  return nodes.map((n) => {
    if (typeof n === "string") return document.createTextNode(n);
    if (!kinds.has(n.tag)) return document.createTextNode("");
    if (n.tag === "pre") return codeBlock(n);
    const heading = /^h([1-6])$/.exec(n.tag); // the page has h1 and h2 itself
    const el = document.createElement(heading ? "h" + Math.min(6, Number(heading[1]) + 2) : n.tag);
    if (n.tag === "a") {
      el.href = n.href;
      el.target = "_blank";
      el.rel = "noopener noreferrer";
    }
    if (n.tag === "ol" && n.start !== 1) el.start = n.start;
    if (n.align && n.align !== "left") el.className = n.align;
    el.append(...build(n.kids));
    if (n.tag === "table") return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table" }, el);
    return el;
  });
}

const sources = new WeakMap(); // of code: a long piece is several blocks

function codeBlock(n) {
  const code = h("code", null, n.kids[0]);
  sources.set(code, n.source ?? n.kids[0]);
  const pre = h("pre", { tabindex: "0" }, code);
  if (n.cut) return h("div", { class: "code cut" }, pre);
  return h("div", { class: "code" }, h("div", { class: "bar" }, h("span", null, n.lang || "code"), copyButton("Copy code", (b) => {
    let text = sources.get(code);
    for (let next = b.closest(".block").nextElementSibling; next?.matches(".cut"); next = next.nextElementSibling) text += sources.get(next.querySelector("code")) ?? "";
    return text;
  })), pre);
}

/** Copies a text, also where the browser keeps its clipboard from plain HTTP. */
async function copy(text) {
  try {
    return await navigator.clipboard.writeText(text);
  } catch { // not there, or not allowed
    const before = document.activeElement;
    const area = h("textarea", { class: "sr", readonly: true, "aria-hidden": "true" });
    area.value = text;
    (before?.closest("dialog[open]") ?? document.body).append(area); // what is outside of a dialog cannot be selected
    area.select();
    const ok = document.execCommand("copy");
    area.remove();
    before?.focus({ preventScroll: true });
    if (!ok) throw new Error("not allowed");
  }
}

/** A button that copies what text gives. */
export function copyButton(label, text) {
  const b = h("button", { type: "button", class: "quiet", "aria-label": label }, "Copy");
  b.addEventListener("click", async () => {
    try {
      await copy(text(b));
      b.textContent = "Copied";
    } catch {
      b.textContent = "Select and copy it yourself";
    }
    setTimeout(() => (b.textContent = "Copy"), 1500);
  });
  return b;
}

/** A button that asks back: it acts at the second click, and forgets the first soon. */
export function sureButton(label, question, act, props = {}) {
  let since = 0;
  const b = h("button", { type: "button", ...props }, label);
  const calm = () => {
    since = 0;
    b.textContent = label;
    if (props["aria-label"]) b.setAttribute("aria-label", props["aria-label"]);
    b.classList.remove("ask");
  };
  b.addEventListener("click", () => {
    if (since && Date.now() - since > 300) { // not the second half of a double click
      calm();
      return act();
    }
    since = Date.now();
    b.textContent = question;
    b.removeAttribute("aria-label");
    b.classList.add("ask");
    setTimeout(() => since && Date.now() - since >= 5000 && calm(), 5050);
  });
  b.addEventListener("blur", calm);
  return b;
}

/** A picture of a QR code: rows with # for black. */
export function qrPicture(rows, label) {
  const margin = 4;
  const n = rows.length + 2 * margin;
  const d = rows.flatMap((row, y) => [...row.matchAll(/#+/g)].map((m) => `M${m.index + margin} ${y + margin}h${m[0].length}v1h-${m[0].length}z`)).join("");
  return s("svg", { class: "qr", viewBox: `0 0 ${n} ${n}`, role: "img", "aria-label": label, "shape-rendering": "crispEdges" }, s("path", { class: "paper", d: `M0 0h${n}v${n}h-${n}z` }), s("path", { class: "ink", d }));
}

const perFrame = 32768; // characters of an answer taken in between two frames

/** An answer that grows: finished blocks are drawn once, the last one each frame. */
export class Answer {
  #blocks = new Blocks();
  #waiting = "";
  #last = null;
  #frame = 0;
  #drawn = () => {};

  constructor(el, drawn) {
    this.el = el;
    if (drawn) this.#drawn = drawn;
  }

  push(text) {
    this.#waiting += text;
    this.#frame ||= requestAnimationFrame(() => this.#draw());
  }

  #draw() {
    this.#frame = 0;
    const text = this.#waiting.slice(0, perFrame);
    this.#waiting = this.#waiting.slice(perFrame);
    this.#last?.remove();
    for (const b of this.#blocks.push(text)) this.el.append(this.#block(b));
    const open = this.#blocks.open;
    this.#last = open && this.#block(open);
    if (this.#last) this.el.append(this.#last);
    this.#drawn();
    if (this.#waiting !== "") this.#frame = requestAnimationFrame(() => this.#draw());
  }

  #block(b) {
    return h("div", { class: b.cut ? "block cut" : "block" }, ...build(tree(b)));
  }
}
