// Markdown as models write it, as a tree of plain objects: {tag, ...attributes,
// kids}, and strings for text. Nothing here touches the document or parses HTML:
// a tag in the text is text. dom.js makes elements of the tree.

/** Text longer than this is cut into blocks of their own, in characters. */
export const longest = 8192;

const deepest = 6; // of lists, quotes and emphasis inside each other

/**
 * Cuts a text that still grows into blocks that do not change any more and one
 * that does. A block is {kind: "flow" | "code", text, lang, cut}; cut: it goes on
 * from the block before, which was too long.
 */
export class Blocks {
  #kind = "";
  #text = "";
  #lang = "";
  #fence = "";
  #cut = false;
  #line = ""; // that has not ended
  #middle = false; // the line's beginning is in a block already
  #blank = 0; // empty lines since the block's last

  /** Gives the blocks that the text ends. */
  push(text) {
    const closed = [];
    let from = 0;
    for (;;) {
      const nl = text.indexOf("\n", from);
      const end = Math.min(nl < 0 ? text.length : nl, from + longest - this.#line.length);
      this.#line += text.slice(from, end);
      from = end;
      if (from === nl) {
        from++;
        this.#take(this.#line, "\n", closed);
        this.#line = "";
        this.#middle = false;
      } else if (this.#line.length >= longest) {
        this.#take(this.#line, "", closed);
        this.#line = "";
        this.#middle = true;
      } else {
        return closed;
      }
    }
  }

  /** The block that may still grow, or null. */
  get open() {
    if (this.#kind === "code") {
      const closing = !this.#middle && this.#closes(this.#line.trimEnd() || " ");
      return this.#block(this.#text + (closing ? "" : this.#line));
    }
    if (this.#kind === "" && this.#line.trim() === "") return null;
    const fence = !this.#middle && /^ {0,3}(```|~~~)/.test(this.#line);
    const text = this.#text + "\n".repeat(this.#kind === "" ? 0 : this.#blank) + (fence ? "" : this.#line);
    return text === "" ? null : { kind: "flow", text, lang: "", cut: this.#cut };
  }

  #block(text) {
    return { kind: this.#kind, text, lang: this.#lang, cut: this.#cut };
  }

  #closes(line) {
    const t = line.trim();
    return t.length >= this.#fence.length && t[0] === this.#fence[0] && t.split(t[0]).join("") === "";
  }

  #close(closed, again) {
    if (this.#kind !== "" && (this.#text !== "" || (this.#kind === "code" && !this.#cut))) closed.push(this.#block(this.#text));
    this.#text = "";
    this.#blank = 0;
    this.#cut = again;
    if (!again) {
      this.#kind = "";
      this.#lang = "";
    }
  }

  #take(line, end, closed) {
    if (this.#kind === "code") {
      if (!this.#middle && this.#closes(line)) return this.#close(closed, false);
    } else if (!this.#middle) {
      const fence = /^ {0,3}(`{3,}|~{3,})[ \t]*([^`\s]*)[^`]*$/.exec(line);
      if (fence) {
        this.#close(closed, false);
        [this.#kind, this.#fence, this.#lang] = ["code", fence[1], fence[2].slice(0, 40)];
        return;
      }
      if (line.trim() === "") {
        if (this.#kind !== "") this.#blank++;
        return;
      }
      if (this.#blank > 0) {
        if (goesOn(this.#text, line)) {
          this.#text += "\n".repeat(this.#blank);
          this.#blank = 0;
        } else {
          this.#close(closed, false);
        }
      }
      this.#kind = "flow";
    } else if (this.#kind === "") {
      this.#kind = "flow";
    }
    this.#text += line + end;
    if (this.#text.length >= longest) this.#close(closed, true);
  }
}

/** Says that a line after an empty one still belongs to the list before it. */
function goesOn(text, line) {
  return item(text) !== null && (/^( {2,}|\t)\S/.test(line) || item(line) !== null);
}

function item(line) {
  return /^( {0,3})([-*+]|\d{1,9}[.)])(?: +|\t|$)/.exec(line);
}

/** The tree of a block. */
export function tree(block) {
  if (block.kind === "code") return [{ tag: "pre", lang: block.lang, cut: block.cut, source: block.text, kids: [block.text.replace(/\n$/, "")] }];
  return flow(block.text.split("\n"), 0);
}

/** The tree of a whole text. */
export function parse(text) {
  const blocks = new Blocks();
  const out = blocks.push(text).flatMap(tree);
  return blocks.open ? out.concat(tree(blocks.open)) : out;
}

function flow(lines, depth) {
  const out = [];
  let para = [];
  const flush = () => {
    if (para.length > 0) out.push({ tag: "p", kids: inline(para.join("\n"), depth) });
    para = [];
  };
  for (let i = 0; i < lines.length; i++) {
    const line = lines[i];
    let m;
    if (line.trim() === "") {
      flush();
    } else if ((m = /^ {0,3}(#{1,6})[ \t]+(.*)$/.exec(line))) {
      flush();
      out.push({ tag: "h" + m[1].length, kids: inline(m[2].trim().replace(/[ \t]#+$/, ""), depth) });
    } else if (/^ {0,3}([-*_])[ \t]*(\1[ \t]*){2,}$/.test(line)) {
      flush();
      out.push({ tag: "hr", kids: [] });
    } else if (depth > 0 && (m = /^ {0,3}(```|~~~)[ \t]*(\S*)/.exec(line))) {
      flush();
      const code = [];
      for (i++; i < lines.length && !lines[i].trim().startsWith(m[1]); i++) code.push(lines[i]);
      out.push({ tag: "pre", lang: m[2].slice(0, 40), kids: [code.join("\n")] });
    } else if (depth < deepest && /^ {0,3}>/.test(line)) {
      flush();
      const inner = [];
      for (; i < lines.length && (/^ {0,3}>/.test(lines[i]) || (lines[i].trim() !== "" && inner.length > 0)); i++) inner.push(lines[i].replace(/^ {0,3}> ?/, ""));
      i--;
      out.push({ tag: "blockquote", kids: flow(inner, depth + 1) });
    } else if (depth < deepest && item(line) && (para.length === 0 || !/^\s*\d/.test(line) || /^\s*1[.)]/.test(line))) {
      flush();
      i = list(lines, i, depth, out) - 1;
    } else if (line.includes("|") && i + 1 < lines.length && delimiters(lines[i + 1], cells(line).length)) {
      flush();
      i = table(lines, i, depth, out) - 1;
    } else {
      para.push(line);
    }
  }
  flush();
  return out;
}

/** Reads a list from line i; gives the line after it. */
function list(lines, i, depth, out) {
  const ordered = /\d/.test(item(lines[i])[2]);
  const node = { tag: ordered ? "ol" : "ul", kids: [] };
  if (ordered) node.start = parseInt(item(lines[i])[2], 10);
  while (i < lines.length) {
    const m = item(lines[i]);
    if (!m || /\d/.test(m[2]) !== ordered) break;
    const indent = m[1].length + m[2].length + 1;
    const inner = [lines[i].slice(m[0].length)];
    for (i++; i < lines.length; i++) {
      const l = lines[i];
      const in_ = /^[ \t]*/.exec(l)[0].replace(/\t/g, "    ").length;
      if (l.trim() === "") {
        if (i + 1 < lines.length && !/^( {2,}|\t)/.test(lines[i + 1])) {
          if (lines[i + 1].trim() !== "" && item(lines[i + 1])) continue; // the next item of a loose list
          break;
        }
        inner.push("");
      } else if (in_ >= Math.min(indent, 2) && in_ > m[1].length) {
        inner.push(l.replace(new RegExp(`^(\\t| {1,${indent}})`), ""));
      } else if (item(l) || inner.at(-1) === "") {
        break;
      } else {
        inner.push(l.trimStart()); // a paragraph goes on
      }
    }
    const box = /^\[([ xX])\][ \t]+/.exec(inner[0]);
    if (box) inner[0] = (box[1] === " " ? "☐ " : "☑ ") + inner[0].slice(box[0].length);
    const kids = flow(inner, depth + 1);
    // A single paragraph is the item itself.
    node.kids.push({ tag: "li", kids: kids.length > 0 && kids[0].tag === "p" && kids.filter((k) => k.tag === "p").length === 1 ? [...kids[0].kids, ...kids.slice(1)] : kids });
  }
  out.push(node);
  return i;
}

function cells(line) {
  return line.trim().replace(/^\|/, "").replace(/\|$/, "").split(/(?<!\\)\|/).map((c) => c.trim().replaceAll("\\|", "|"));
}

function delimiters(line, n) {
  if (!/^[ \t|:-]+$/.test(line) || !line.includes("-")) return null;
  const all = cells(line);
  if (all.length !== n || !all.every((c) => /^:?-+:?$/.test(c))) return null;
  return all.map((c) => (c.endsWith(":") ? (c.startsWith(":") ? "center" : "right") : "left"));
}

function table(lines, i, depth, out) {
  const head = cells(lines[i]);
  const align = delimiters(lines[i + 1], head.length);
  const row = (texts, tag) => ({ tag: "tr", kids: align.map((a, at) => ({ tag, align: a, kids: inline(texts[at] ?? "", depth) })) });
  const body = [];
  for (i += 2; i < lines.length && lines[i].includes("|"); i++) body.push(row(cells(lines[i]), "td"));
  out.push({ tag: "table", kids: [{ tag: "thead", kids: [row(head, "th")] }, { tag: "tbody", kids: body }] });
  return i;
}

const punctuation = /[!-/:-@[-`{-~]/;
const word = /[\p{L}\p{N}]/u;

/** Text with emphasis, code and links in it. Time grows with its length. */
export function inline(s, depth = 0) {
  const out = [];
  const absent = new Set(); // closing marks that are nowhere further on
  let text = "";
  const put = (node) => {
    if (text !== "") out.push(text);
    text = "";
    out.push(node);
  };
  for (let i = 0; i < s.length; ) {
    const c = s[i];
    if (c === "\\" && i + 1 < s.length && punctuation.test(s[i + 1])) {
      text += s[i + 1];
      i += 2;
      continue;
    }
    if (c === "\n") {
      text = text.trimEnd().replace(/\\$/, "");
      put({ tag: "br", kids: [] });
      i++;
      continue;
    }
    const found = depth < deepest ? special(s, i, depth, absent) : null;
    if (found) {
      put(found.node);
      i = found.end;
      continue;
    }
    // The whole of a run, so that no part of it is looked at again.
    let n = 1;
    if ("`*_~".includes(c)) while (s[i + n] === c) n++;
    text += s.slice(i, i + n);
    i += n;
  }
  if (text !== "") out.push(text);
  return out;
}

function special(s, i, depth, absent) {
  switch (s[i]) {
    case "`":
      return code(s, i, absent);
    case "*":
    case "_":
    case "~":
      return emphasis(s, i, depth, absent);
    case "!":
      return s[i + 1] === "[" ? link(s, i + 1, depth, absent) : null;
    case "[":
      return link(s, i, depth, absent);
    case "<": {
      const m = at(/<((?:https?:\/\/|mailto:)[^\s<>]{1,2000})>/y, s, i);
      return m && linked(m[1], [m[1]], i + m[0].length);
    }
    case "h": {
      if (i > 0 && word.test(s[i - 1])) return null;
      const m = at(/https?:\/\/[^\s<>"'`*\]]{1,2000}/y, s, i);
      if (!m) return null;
      const url = m[0].replace(/[.,;:!?)]+$/, (end) => (end.includes(")") && m[0].includes("(") ? end.replace(/[.,;:!?]+$/, "") : ""));
      return linked(url, [url], i + url.length);
    }
  }
  return null;
}

function at(re, s, i) {
  re.lastIndex = i;
  return re.exec(s);
}

function run(s, i) {
  let n = 1;
  while (s[i + n] === s[i]) n++;
  return n;
}

function code(s, i, absent) {
  const n = run(s, i);
  const mark = "`".repeat(n);
  if (absent.has(mark)) return null;
  for (let j = s.indexOf("`", i + n); j >= 0; ) {
    const m = run(s, j);
    if (m === n) {
      let text = s.slice(i + n, j).replaceAll("\n", " ");
      if (text.startsWith(" ") && text.endsWith(" ") && text.trim() !== "") text = text.slice(1, -1);
      return { node: { tag: "code", kids: [text] }, end: j + n };
    }
    j = s.indexOf("`", j + m);
  }
  absent.add(mark);
  return null;
}

const marks = { "*": [, "em", "strong"], _: [, "em", "strong"], "~": [, null, "del"] };

function emphasis(s, i, depth, absent) {
  const c = s[i];
  const n = run(s, i);
  if (n > 3 || /\s|^$/.test(s[i + n] ?? "") || (c === "_" && i > 0 && word.test(s[i - 1]))) return null;
  if (n === 3) {
    if (c === "~") return null;
    const end = closer(s, i + 3, c, 3, absent);
    return end < 0 ? null : { node: { tag: "strong", kids: [{ tag: "em", kids: inline(s.slice(i + 3, end), depth + 2) }] }, end: end + 3 };
  }
  const tag = marks[c][n];
  if (!tag) return null;
  const end = closer(s, i + n, c, n, absent);
  return end < 0 ? null : { node: { tag, kids: inline(s.slice(i + n, end), depth + 1) }, end: end + n };
}

/** Where n marks close what was opened before from; -1: nowhere. */
function closer(s, from, c, n, absent) {
  const mark = c.repeat(n);
  if (absent.has(mark)) return -1;
  for (let j = s.indexOf(c, from); j >= 0; ) {
    const m = run(s, j);
    if ((m === n || (m === 3 && n < 3)) && j > from && !/\s/.test(s[j - 1]) && s[j - 1] !== "\\" && (c !== "_" || !word.test(s[j + m] ?? ""))) return j + m - n;
    j = s.indexOf(c, j + m);
  }
  absent.add(mark);
  return -1;
}

function link(s, i, depth, absent) {
  if (absent.has("](")) return null;
  if (s.indexOf("](", i) < 0) {
    absent.add("](");
    return null;
  }
  let open = 0;
  let j = i;
  for (const end = Math.min(s.length, i + 1000); j < end; j++) {
    if (s[j] === "\\") j++;
    else if (s[j] === "[") open++;
    else if (s[j] === "]" && --open === 0) break;
  }
  if (s[j] !== "]" || open !== 0) return null;
  const m = at(/\]\([ \t]*(?:<([^<>\n]{0,2000})>|((?:[^\s()]|\([^\s()]{0,500}\)){0,2000}))(?:[ \t]+["'(][^\n]{0,500}["')])?[ \t]*\)/y, s, j);
  if (!m) return null;
  const label = s.slice(i + 1, j);
  const url = m[1] ?? m[2] ?? "";
  // No link in a link; of an image the link remains: nothing is fetched.
  return linked(url, label === "" ? [url] : inline(label, deepest - 1), j + m[0].length);
}

/** A link, or what it says if it leads where no link of a model's may. */
function linked(url, kids, end) {
  const href = safe(url);
  return { node: href ? { tag: "a", href, kids } : { tag: "span", kids }, end };
}

/** The address, if it is one of http, https or mailto; else null. */
export function safe(url) {
  try {
    const u = new URL(url);
    return ["http:", "https:", "mailto:"].includes(u.protocol) ? u.href : null;
  } catch {
    return null; // relative ones lead to the node itself
  }
}
