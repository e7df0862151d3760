// The list of conversations: search, open, rename, export, delete with undo.

import { json, markdown, title } from "./chats.js";
import { h, say } from "./dom.js";
import { many } from "./text.js";

const mostShown = 100;

function download(name, media, text) {
  const url = URL.createObjectURL(new Blob([text], { type: media }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
}

const fileName = (chat, ending) => (title(chat).replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 60) || "conversation") + ending;

function when(t) {
  const d = new Date(t);
  return d.toDateString() === new Date().toDateString() ? d.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }) : d.toLocaleDateString([], { day: "numeric", month: "short", year: "numeric" });
}

export class ChatList {
  /**
   * dialog holds the list. on: {open(chat), changed(chat), removed(chat)}; current
   * gives the id of the conversation that is shown.
   */
  constructor(dialog, chats, on, current) {
    Object.assign(this, { dialog, chats, on, current });
    this.search = dialog.querySelector("input");
    this.ul = dialog.querySelector("ul");
    this.note = dialog.querySelector(".fine");
    this.search.addEventListener("input", () => this.draw());
  }

  show() {
    this.search.value = "";
    this.draw();
    this.dialog.showModal();
  }

  draw() {
    const list = this.chats.find(this.search.value);
    this.ul.replaceChildren(...list.slice(0, mostShown).map((chat) => this.#entry(chat)));
    say(this.note, list.length === 0 ? (this.search.value.trim() ? "No conversation has these words." : "No conversation yet.") : list.length > mostShown ? `${mostShown} of ${list.length}: search for the others.` : "");
  }

  #entry(chat) {
    const name = title(chat);
    const b = (label, act) => h("button", { type: "button", class: "quiet", "aria-label": `${label}: ${name}`, onclick: act }, label);
    const li = h("li", { class: chat.id === this.current() ? "chosen" : "" },
      h("button", { type: "button", class: "entry", "aria-current": chat.id === this.current() ? "true" : undefined, onclick: () => { this.dialog.close(); this.on.open(chat); } },
        h("b", null, name), h("small", null, `${when(chat.updated)} · ${many(chat.messages.length, "message")}`)),
      h("div", { class: "row-actions" },
        b("Rename", () => this.#rename(li, chat)),
        b("Markdown", () => download(fileName(chat, ".md"), "text/markdown", markdown(chat))),
        b("JSON", () => download(fileName(chat, ".json"), "application/json", json(chat))),
        b("Delete", () => { this.on.removed(chat); this.draw(); this.search.focus(); })));
    return li;
  }

  #rename(li, chat) {
    const input = h("input", { type: "text", maxlength: 200, "aria-label": "Name of the conversation" });
    input.value = title(chat);
    const end = (take) => {
      if (!input.isConnected) return;
      if (take && input.value.trim() !== "" && input.value.trim() !== title(chat)) {
        chat.title = input.value.trim();
        this.on.changed(chat);
      }
      this.draw();
    };
    input.addEventListener("keydown", (e) => {
      if (e.key !== "Enter" && e.key !== "Escape") return;
      e.preventDefault();
      e.stopPropagation();
      end(e.key === "Enter");
    });
    input.addEventListener("blur", () => end(true));
    li.querySelector(".entry").replaceWith(input);
    input.select();
  }
}
