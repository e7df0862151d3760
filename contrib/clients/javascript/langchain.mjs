// LangChain's chat model for OpenAI's API.
import { ChatOpenAI } from "@langchain/openai";
import { createAgent, providerStrategy, tool } from "langchain";
import { z } from "zod";
import * as c from "./cases.mjs";

const model = (base, name, maxTokens) => new ChatOpenAI({ configuration: { baseURL: base + "/v1" }, apiKey: "none", model: name, temperature: 0, maxTokens, maxRetries: 0 });
const tales = model(c.BASE, c.MODEL, c.TOKENS);

await c.run({
  async chat() {
    c.same((await tales.invoke(c.QUESTION)).text);
  },
  async stream() {
    const pieces = [];
    for await (const piece of await tales.stream(c.QUESTION)) pieces.push(piece.text);
    c.streamed(pieces);
  },
  // A typed result beside a tool that the model is free to call.
  async tools() {
    const weather = tool(({ city }) => "rain in " + city, { name: "weather", description: "the weather", schema: z.object({ city: z.string() }) });
    const agent = createAgent({ model: model(c.AGENT_BASE, c.AGENT_MODEL, 100), tools: [weather], responseFormat: providerStrategy(z.object({ city: z.string(), weather: z.string() })) });
    const out = await agent.invoke({ messages: [{ role: "user", content: c.ASK_WEATHER }] });
    c.check(out.messages.some((m) => m.type === "tool" && m.content === "rain in Oslo"), out);
    c.check(out.structuredResponse.city === "Oslo", out.structuredResponse);
  },
  async structure() {
    c.summed(await model(c.BASE, c.MODEL, 100).withStructuredOutput(z.object({ sum: z.number().int().min(0).max(99) })).invoke(c.ASK_SUM));
  },
  async cancel() {
    let n = 0;
    for await (const _ of await model(c.BASE, c.MODEL, c.LONG).stream(c.QUESTION)) if (++n === 3) break;
  },
  errors: () => c.raises(() => model(c.BASE, c.NOBODY, c.TOKENS).invoke(c.QUESTION)),
});
