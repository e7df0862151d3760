// What every client's program here shares: see python/cases.py.
export const { BASE, MODEL, TEXT, AGENT_BASE, AGENT_MODEL, REPORT } = process.env;
export const QUESTION = "Tell me a story about a fox.";
export const TOKENS = 16;
export const LONG = 400;
export const ASK_WEATHER = "How is the weather in Oslo?";
export const ASK_SUM = "What is 2 and 2?";
export const NOBODY = "no-such-model";

const object = (properties) => ({ type: "object", properties, required: Object.keys(properties), additionalProperties: false });
export const WEATHER = object({ city: { type: "string" } });
export const SUM = object({ sum: { type: "integer", minimum: 0, maximum: 99 } });

export function check(holds, what) {
  if (!holds) throw new Error(typeof what === "string" ? what : JSON.stringify(what));
}

export const same = (text) => check(text === TEXT, `the text is ${JSON.stringify(text)}, not ${JSON.stringify(TEXT)}`);

export const reported = (text) => check(text === REPORT, `the answer after the call is ${JSON.stringify(text)}`);

export const summed = (answer) => check(Number.isInteger(answer?.sum) && answer.sum >= 0 && answer.sum <= 99, answer);

// streamed: a stream came in pieces, and they are the text.
export function streamed(pieces) {
  pieces = pieces.filter(Boolean);
  check(pieces.length > 3, `the stream has ${pieces.length} pieces`);
  same(pieces.join(""));
}

// raises: call fails, and the client's error says what is wrong.
export async function raises(call, test = (e) => (e.status ?? e.status_code) === 404 && String(e.message).includes(NOBODY)) {
  try {
    await call();
  } catch (e) {
    check(test(e), `the error is ${e}`);
    return;
  }
  throw new Error("an unknown model is no error");
}

export async function run(cases) {
  for (const [name, take] of Object.entries(cases)) {
    console.log("case", name);
    try {
      await take();
      console.log("ok", name);
    } catch (e) {
      console.error(e);
      console.log("fail", name, String(e).replace(/\s+/g, " ").slice(0, 600));
    }
  }
  console.log("end");
}
