// OpenAI's own client at /v1/chat/completions.
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import * as c from "./cases.mjs";

const client = new OpenAI({ baseURL: c.BASE + "/v1", apiKey: "none" });
const agent = new OpenAI({ baseURL: c.AGENT_BASE + "/v1", apiKey: "none" });
const asked = { model: c.MODEL, messages: [{ role: "user", content: c.QUESTION }], temperature: 0, max_tokens: c.TOKENS };

await c.run({
  async list() {
    c.check((await client.models.list()).data.some((m) => m.id === c.MODEL), "the model is not listed");
  },
  async chat() {
    c.same((await client.chat.completions.create(asked)).choices[0].message.content);
  },
  async stream() {
    const pieces = [];
    for await (const chunk of await client.chat.completions.create({ ...asked, stream: true })) pieces.push(chunk.choices[0]?.delta.content);
    c.streamed(pieces);
  },
  async tools() {
    let called;
    const runner = agent.chat.completions.runTools({
      model: c.AGENT_MODEL,
      messages: [{ role: "user", content: c.ASK_WEATHER }],
      tools: [{ type: "function", function: { name: "weather", parameters: c.WEATHER, parse: JSON.parse, function: (args) => ((called = args.city), "rain") } }],
    });
    c.reported(await runner.finalContent());
    c.check(called === "Oslo", `called with ${called}`);
  },
  async structure() {
    const sum = z.object({ sum: z.number().int().min(0).max(99) });
    const answer = await client.chat.completions.parse({ ...asked, max_tokens: 100, messages: [{ role: "user", content: c.ASK_SUM }], response_format: zodResponseFormat(sum, "sum") });
    c.summed(answer.choices[0].message.parsed);
  },
  async cancel() {
    let n = 0;
    for await (const _ of await client.chat.completions.create({ ...asked, max_tokens: c.LONG, stream: true })) if (++n === 3) break;
  },
  errors: () => c.raises(() => client.chat.completions.create({ ...asked, model: c.NOBODY })),
});
