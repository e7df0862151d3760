// The conversations, kept in this browser's IndexedDB. All are held in memory, too,
// so that they can be listed and searched at once; the limits keep that small.

const most = 500; // conversations
const mostText = 40e6; // characters of all
const store = "chats";

const done = (request) => new Promise((ok, no) => {
  request.onsuccess = () => ok(request.result);
  request.onerror = () => no(request.error);
});

function open() {
  const request = indexedDB.open("shoal", 1);
  request.onupgradeneeded = () => request.result.createObjectStore(store, { keyPath: "id" });
  return done(request);
}

const size = (chat) => chat.messages.reduce((n, m) => n + m.content.length + (m.files ?? []).reduce((k, f) => k + f.text.length, 0), 0);

const sound = (chat) => typeof chat?.id === "string" && Array.isArray(chat.messages) && chat.messages.every((m) => typeof m?.content === "string" && ["user", "assistant"].includes(m.role));

/** A conversation's name: its own, or how it begins. */
export function title(chat) {
  const text = chat.title || chat.messages[0]?.content.trim() || chat.messages[0]?.files?.[0]?.name || "Empty";
  const line = text.split("\n", 1)[0];
  return line.length > 60 ? line.slice(0, 59) + "…" : line;
}

export class Chats {
  #all = new Map();
  #gone = new Set(); // deleted: an answer that still ends there is not kept
  #db = null;

  /** Reads what is kept. Without a store the conversations live as long as the page. */
  async load() {
    try {
      this.#db = await open();
      for (const chat of await done(this.#db.transaction(store).objectStore(store).getAll())) if (sound(chat)) this.#all.set(chat.id, chat);
    } catch {
      this.#db = null;
    }
    return this.#db !== null;
  }

  get(id) {
    return this.#all.get(id);
  }

  /** Conversations that have all words, the latest first. */
  find(words) {
    const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
    const has = (chat) => {
      const text = [title(chat), ...chat.messages.map((m) => m.content)].join("\n").toLowerCase();
      return wanted.every((w) => text.includes(w));
    };
    return [...this.#all.values()].filter((chat) => wanted.length === 0 || has(chat)).sort((a, b) => b.updated - a.updated);
  }

  /** Keeps a conversation as it is now. It fails, in words, if there is no room. */
  async put(chat) {
    if (this.#gone.has(chat.id)) return;
    const others = [...this.#all.values()].filter((c) => c.id !== chat.id);
    if (others.length >= most) throw new Error(`This browser keeps ${most} conversations: delete or export some, or this one is not kept.`);
    if (others.reduce((n, c) => n + size(c), size(chat)) > mostText) throw new Error("The conversations in this browser are full: delete or export some, or this one is not kept.");
    this.#all.set(chat.id, chat);
    if (!this.#db) return;
    try {
      await this.#write((s) => s.put(structuredClone(chat)));
    } catch {
      throw new Error("This browser has no more room for conversations: delete or export some, or this one is not kept.");
    }
  }

  /** Keeps a conversation that was removed, after all. */
  async restore(chat) {
    this.#gone.delete(chat.id);
    await this.put(chat);
  }

  async remove(id) {
    this.#gone.add(id);
    this.#all.delete(id);
    if (this.#db) await this.#write((s) => s.delete(id)).catch(() => {});
  }

  async clear() {
    for (const id of this.#all.keys()) this.#gone.add(id);
    this.#all.clear();
    if (this.#db) await this.#write((s) => s.clear()).catch(() => {});
  }

  #write(how) {
    const t = this.#db.transaction(store, "readwrite");
    how(t.objectStore(store));
    return new Promise((ok, no) => {
      t.oncomplete = ok;
      t.onerror = t.onabort = () => no(t.error);
    });
  }
}

/** A conversation as Markdown, for people. */
export function markdown(chat) {
  const parts = [`# ${title(chat)}`];
  for (const m of chat.messages) {
    parts.push(m.role === "user" ? "## You" : `## ${m.meta?.model || "Answer"}`);
    for (const f of m.files ?? []) parts.push(`*${f.name}:*`, fenced(f.text));
    if (m.content !== "") parts.push(m.content);
  }
  return parts.join("\n\n") + "\n";
}

/** A text as a block of code that nothing in it can end. */
export function fenced(text) {
  const longest = Math.max(2, ...[...text.matchAll(/`+/g)].map((m) => m[0].length));
  const fence = "`".repeat(longest + 1);
  return `${fence}\n${text}${text.endsWith("\n") ? "" : "\n"}${fence}`;
}

/** A conversation as JSON, for programs: messages as the API takes them. */
export function json(chat) {
  const messages = chat.messages.map((m) => ({ role: m.role, content: content(m), ...(m.meta?.model ? { model: m.meta.model } : {}) }));
  return JSON.stringify({ title: title(chat), created: new Date(chat.created).toISOString(), updated: new Date(chat.updated).toISOString(), messages }, null, 2) + "\n";
}

/** A message as the model gets it: its files first, then what was typed. */
export function content(m) {
  return [...(m.files ?? []).map((f) => `${f.name}:\n${fenced(f.text)}`), m.content].filter((s) => s !== "").join("\n\n");
}
