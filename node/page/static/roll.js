// How much of a conversation fits into a model's context. The page has no tokenizer: it
// learns from each answer how many characters a token of this model has, and when the
// node says that a prompt is too long, leaves out more.

const usual = 3.5; // characters per token, until an answer tells
const frame = 8; // tokens around each message, about

export const estimate = (text, perToken = usual) => Math.ceil(text.length / perToken) + frame;

/** What an answer tells: characters per token. */
export function learn(texts, tokens) {
  const n = tokens - frame * texts.length;
  const chars = texts.reduce((sum, t) => sum + t.length, 0);
  return n > 0 && chars > 40 ? Math.min(12, Math.max(0.5, chars / n)) : usual;
}

/**
 * Returns where in a list of {role, content} to begin so that the rest fits into room
 * tokens: at a question, and never after the last one.
 */
export function begin(messages, room, perToken) {
  const turns = messages.map((m, i) => (m.role === "user" ? i : -1)).filter((i) => i >= 0);
  const last = turns.at(-1) ?? 0;
  const fits = (from) => messages.slice(from).reduce((n, m) => n + estimate(m.content, perToken), 0) <= room;
  return [0, ...turns].find((from) => from >= last || fits(from)) ?? last;
}

/** The next turn to begin with if a prompt that begins at from is too long; -1: none. */
export function shorter(messages, from) {
  const turns = messages.map((m, i) => (m.role === "user" ? i : -1)).filter((i) => i > from);
  if (turns.length === 0) return -1;
  return turns[Math.floor((turns.length - 1) / 3)]; // a third at a time, so that few tries are enough
}

/** Tokens to keep free for an answer. */
export const reserve = (context) => Math.min(512, Math.floor(context / 4));
