// Files and long pastes that go along with a message, as text.

import { h } from "./dom.js";
import { bytes, many } from "./text.js";

const mostFiles = 8;
const mostBytes = 256 << 10; // of one file: more would fill any context
export const longPaste = 4000; // characters from which a paste becomes a file

/** Reads a file as text, or fails in words. */
async function text(file) {
  if (file.size > mostBytes) throw new Error(`${file.name} is larger than ${bytes(mostBytes)}, the most that can go along.`);
  const raw = new Uint8Array(await file.arrayBuffer());
  const wide = raw[0] === 0xff && raw[1] === 0xfe ? "utf-16le" : raw[0] === 0xfe && raw[1] === 0xff ? "utf-16be" : null;
  let s;
  try {
    s = new TextDecoder(wide ?? "utf-8", { fatal: true }).decode(raw);
  } catch {
    s = "\0";
  }
  if (s.includes("\0")) throw new Error(`${file.name} is not a text file. Models here read text only: save it as text first.`);
  if (s.trim() === "") throw new Error(`${file.name} is empty.`);
  return s;
}

export class Files {
  list = [];

  /** el shows the files; trouble is told what cannot be taken. */
  constructor(el, trouble) {
    this.el = el;
    this.trouble = trouble;
  }

  async add(files) {
    for (const f of files) {
      try {
        if (this.list.length >= mostFiles) throw new Error(`At most ${mostFiles} files go along with a message.`);
        this.list.push({ name: f.name, text: await text(f) });
      } catch (err) {
        this.trouble(err.message);
      }
    }
    this.draw();
  }

  addText(s) {
    if (this.list.length < mostFiles) this.list.push({ name: "pasted text", text: s });
    this.draw();
  }

  take() {
    const list = this.list;
    this.set([]);
    return list;
  }

  set(list) {
    this.list = list;
    this.draw();
  }

  draw() {
    this.el.hidden = this.list.length === 0;
    this.el.replaceChildren(...this.list.map((f, i) => h("li", null, chip(f),
      h("button", { type: "button", class: "quiet", "aria-label": `Remove ${f.name}`, onclick: () => this.set(this.list.filter((_, k) => k !== i)) }, "×"))));
  }
}

/** A file as a message shows it: its name, and its text on demand. */
export const chip = (f) => h("details", { class: "file" }, h("summary", null, `${f.name} · ${many(f.text.split("\n").length, "line")}`), h("pre", { tabindex: "0" }, f.text.length > 20000 ? f.text.slice(0, 20000) + "\n…" : f.text));
