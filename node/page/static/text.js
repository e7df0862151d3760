// Figures and names as people read them.

/** Enough of a peer's ID to tell it from others. */
export const short = (peer) => "…" + peer.slice(-6);

const machines = new Map(); // peer -> name, of those that tell it

/** Takes the names of machines from {peer, name}. */
export function learnNames(list) {
  for (const { peer, name } of list) if (peer && name) machines.set(peer, name);
}

/** A machine's name if it is known, else the end of its ID. */
export function who(view, peer) {
  if (peer === view?.peer || view?.networks?.some((n) => n.peer === peer)) return "this node";
  const name = machines.get(peer) ?? "";
  return name === "" ? short(peer) : name.length > 24 ? name.slice(0, 23) + "…" : name;
}

/** Who may use the node, by its networks. Only its owner is told of private swarms. */
export function company(view, owner) {
  const strangers = view.light ? "open: strangers compute the answers" : "open: strangers may use this machine, and it uses theirs";
  const members = view.networks.filter((n) => n.swarm !== "").map((n) => {
    const size = many(Math.max(n.members ?? 0, n.peers + 1), "member");
    return n.founder ? `your own machines and those you let in (swarm ${n.name}, ${size})` : `those in swarm ${n.name} (${size})`;
  }).join(" and ");
  if (view.networks.some((n) => n.swarm === "")) return members ? `${strangers}; beside them ${members}` : strangers;
  if (members) return `only ${members}`;
  return owner ? "this machine alone: nobody else can connect" : "not open to strangers";
}

export const span = (x) => `${x.from}–${x.to}`;

export function ms(x) {
  if (x >= 10000) return `${(x / 1000).toFixed(0)} s`;
  if (x >= 1000) return `${(x / 1000).toFixed(1)} s`;
  return `${x >= 10 ? x.toFixed(0) : x.toFixed(1)} ms`;
}

export const rate = (x) => (x >= 100 ? x.toFixed(0) : x.toFixed(1));

export function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let i = 0;
  for (; n >= 1024 && i + 1 < units.length; i++) n /= 1024;
  return `${i === 0 || n >= 100 ? n.toFixed(0) : n.toFixed(1)} ${units[i]}`;
}

export function count(n) {
  for (const [unit, size] of [["B", 1e9], ["M", 1e6], ["k", 1e3]]) if (n >= size) return `${(n / size).toFixed(n < 10 * size ? 1 : 0)} ${unit}`;
  return String(n);
}

export function time(seconds) {
  if (seconds < 90) return `${seconds.toFixed(0)} s`;
  if (seconds < 5400) return `${(seconds / 60).toFixed(0)} min`;
  if (seconds < 129600) return `${(seconds / 3600).toFixed(0)} h`;
  return `${(seconds / 86400).toFixed(0)} days`;
}

export const many = (n, one, more = one + "s") => `${n} ${n === 1 ? one : more}`;
