// Ollama's own client.
import { Ollama } from "ollama";
import * as c from "./cases.mjs";

const client = new Ollama({ host: c.BASE });
const agent = new Ollama({ host: c.AGENT_BASE });
const asked = { model: c.MODEL, messages: [{ role: "user", content: c.QUESTION }], options: { temperature: 0, num_predict: c.TOKENS } };

await c.run({
  async list() {
    c.check((await client.list()).models.some((m) => m.name.split(":")[0] === c.MODEL), "the model is not listed");
  },
  async chat() {
    c.same((await client.chat(asked)).message.content);
  },
  async stream() {
    const pieces = [];
    for await (const part of await client.chat({ ...asked, stream: true })) pieces.push(part.message.content);
    c.streamed(pieces);
  },
  async tools() {
    const messages = [{ role: "user", content: c.ASK_WEATHER }];
    const ask = () => agent.chat({ model: c.AGENT_MODEL, messages, tools: [{ type: "function", function: { name: "weather", description: "the weather", parameters: c.WEATHER } }] });
    const { message } = await ask();
    c.check(message.tool_calls[0].function.arguments.city === "Oslo", message);
    messages.push(message, { role: "tool", tool_name: "weather", content: "rain" });
    c.reported((await ask()).message.content);
  },
  async structure() {
    const answer = await client.chat({ model: c.MODEL, messages: [{ role: "user", content: c.ASK_SUM }], format: c.SUM });
    c.summed(JSON.parse(answer.message.content));
  },
  async cancel() {
    let n = 0;
    const stream = await client.chat({ ...asked, options: { temperature: 0, num_predict: c.LONG }, stream: true });
    try {
      for await (const _ of stream) if (++n === 3) stream.abort();
    } catch (e) {
      c.check(e.name === "AbortError", e);
    }
  },
  errors: () => c.raises(() => client.chat({ ...asked, model: c.NOBODY })),
});
