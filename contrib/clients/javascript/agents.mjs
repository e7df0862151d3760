// OpenAI's Agents SDK, at /v1/responses.
import { Agent, OpenAIResponsesModel, run, setTracingDisabled, tool } from "@openai/agents";
import OpenAI from "openai";
import { z } from "zod";
import * as c from "./cases.mjs";

setTracingDisabled(true);
const model = (base, name) => new OpenAIResponsesModel(new OpenAI({ baseURL: base + "/v1", apiKey: "none", maxRetries: 0 }), name);
const asked = (name, maxTokens) => new Agent({ name: "tales", model: model(c.BASE, name), modelSettings: { temperature: 0, maxTokens } });

await c.run({
  // To this client an answer that is cut short is an error, so these end by themselves.
  async chat() {
    c.check((await run(asked(c.MODEL), c.QUESTION)).finalOutput.startsWith(c.TEXT), "another text");
  },
  async stream() {
    const pieces = [];
    for await (const piece of (await run(asked(c.MODEL), c.QUESTION, { stream: true })).toTextStream()) pieces.push(piece);
    c.check(pieces.length > 3 && pieces.join("").startsWith(c.TEXT), pieces);
  },
  // A typed result beside a tool that the model is free to call.
  async tools() {
    let called;
    const weather = tool({ name: "weather", description: "the weather", parameters: z.object({ city: z.string() }), execute: ({ city }) => ((called = city), "rain") });
    const agent = new Agent({ name: "agent", model: model(c.AGENT_BASE, c.AGENT_MODEL), tools: [weather], outputType: z.object({ city: z.string(), weather: z.string() }) });
    const out = (await run(agent, c.ASK_WEATHER)).finalOutput;
    c.check(called === "Oslo" && out.weather === "rain", out);
  },
  async structure() {
    const agent = new Agent({ name: "sums", model: model(c.BASE, c.MODEL), outputType: z.object({ sum: z.number().int().min(0).max(99) }) });
    c.summed((await run(agent, c.ASK_SUM)).finalOutput);
  },
  async cancel() {
    const control = new AbortController();
    let n = 0;
    try {
      const stream = await run(asked(c.MODEL, c.LONG), c.QUESTION, { stream: true, signal: control.signal });
      for await (const _ of stream.toTextStream()) if (++n === 3) control.abort();
    } catch (e) {
      c.check(control.signal.aborted, e);
    }
  },
  errors: () => c.raises(() => run(asked(c.NOBODY, c.TOKENS), c.QUESTION)),
});
