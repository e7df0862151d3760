// Anthropic's own client.
import Anthropic from "@anthropic-ai/sdk";
import * as c from "./cases.mjs";

const client = new Anthropic({ baseURL: c.BASE, apiKey: "none" });
const agent = new Anthropic({ baseURL: c.AGENT_BASE, apiKey: "none" });
const asked = { model: c.MODEL, messages: [{ role: "user", content: c.QUESTION }], temperature: 0, max_tokens: c.TOKENS };

await c.run({
  async list() {
    c.check((await client.models.list()).data.some((m) => m.id === c.MODEL), "the model is not listed");
  },
  async chat() {
    c.same((await client.messages.create(asked)).content[0].text);
  },
  async stream() {
    const pieces = [];
    const stream = client.messages.stream(asked).on("text", (t) => pieces.push(t));
    c.check((await stream.finalMessage()).usage.output_tokens === c.TOKENS, "usage");
    c.streamed(pieces);
  },
  async tools() {
    const tools = [{ name: "weather", input_schema: c.WEATHER }];
    const messages = [{ role: "user", content: c.ASK_WEATHER }];
    const ask = () => agent.messages.create({ model: c.AGENT_MODEL, max_tokens: 100, messages, tools });
    const first = await ask();
    const call = first.content[0];
    c.check(first.stop_reason === "tool_use" && call.input.city === "Oslo", first);
    messages.push({ role: "assistant", content: first.content }, { role: "user", content: [{ type: "tool_result", tool_use_id: call.id, content: "rain" }] });
    c.reported((await ask()).content[0].text);
  },
  async structure() {
    const answer = await client.messages.create({
      model: c.MODEL, max_tokens: 100, messages: [{ role: "user", content: c.ASK_SUM }],
      tools: [{ name: "sum", input_schema: c.SUM }], tool_choice: { type: "tool", name: "sum" },
    });
    c.summed(answer.content[0].input);
  },
  async cancel() {
    let n = 0;
    for await (const _ of await client.messages.create({ ...asked, max_tokens: c.LONG, stream: true })) if (++n === 6) break;
  },
  errors: () => c.raises(() => client.messages.create({ ...asked, model: c.NOBODY })),
});
