// Server-sent events, as the API's streams have them: "data: ..." lines, each
// event ended by an empty line. Comments and other fields are passed over.

export class EventReader {
  #rest = "";
  #data = [];

  /** Takes a piece of the stream, cut anywhere; gives the events that it ends. */
  push(text) {
    const events = [];
    const all = this.#rest + text;
    let from = 0;
    for (let at; (at = all.indexOf("\n", from)) >= 0; from = at + 1) {
      const end = at > from && all[at - 1] === "\r" ? at - 1 : at;
      this.#line(all.slice(from, end), events);
    }
    this.#rest = all.slice(from);
    return events;
  }

  #line(line, events) {
    if (line === "") {
      if (this.#data.length > 0) events.push(this.#data.join("\n"));
      this.#data = [];
    } else if (line.startsWith("data:")) {
      this.#data.push(line.slice(line[5] === " " ? 6 : 5));
    }
  }
}
