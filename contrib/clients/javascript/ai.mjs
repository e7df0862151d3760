// Vercel's AI SDK, by the provider that PROVIDER names.
import { generateText, streamText, Output, tool, stepCountIs } from "ai";
import { z } from "zod";
import * as c from "./cases.mjs";

const provider = {
  openai: async (base) => (await import("@ai-sdk/openai")).createOpenAI({ baseURL: base + "/v1", apiKey: "none" }),
  compatible: async (base) =>
    (await import("@ai-sdk/openai-compatible")).createOpenAICompatible({ name: "shoal", baseURL: base + "/v1", supportsStructuredOutputs: true }),
  anthropic: async (base) => (await import("@ai-sdk/anthropic")).createAnthropic({ baseURL: base + "/v1", apiKey: "none" }),
  ollama: async (base) => (await import("ollama-ai-provider-v2")).createOllama({ baseURL: base + "/api" }),
}[process.env.PROVIDER];
const tales = await provider(c.BASE);
const agent = await provider(c.AGENT_BASE);
const ollama = process.env.PROVIDER === "ollama"; // which reads neither Ollama's errors nor these two settings
const limited = (n) => (ollama ? { providerOptions: { ollama: { options: { temperature: 0, num_predict: n } } } } : { temperature: 0, maxOutputTokens: n });
const asked = { model: tales(c.MODEL), prompt: c.QUESTION, maxRetries: 0, ...limited(c.TOKENS) };

await c.run({
  async chat() {
    c.same((await generateText(asked)).text);
  },
  async stream() {
    const pieces = [];
    for await (const piece of streamText(asked).textStream) pieces.push(piece);
    c.streamed(pieces);
  },
  // A typed result beside a tool that the model is free to call.
  async tools() {
    let called;
    const answer = await generateText({
      model: agent(c.AGENT_MODEL), prompt: c.ASK_WEATHER, stopWhen: stepCountIs(3),
      tools: { weather: tool({ description: "the weather", inputSchema: z.object({ city: z.string() }), execute: ({ city }) => ((called = city), "rain") }) },
      ...(process.env.PROVIDER === "anthropic" ? {} : { output: Output.object({ schema: z.object({ city: z.string(), weather: z.string() }) }) }),
    });
    c.check(called === "Oslo", `called with ${called}`);
    c.reported(answer.text);
  },
  async structure() {
    const answer = await generateText({ ...asked, prompt: c.ASK_SUM, ...limited(100), output: Output.object({ schema: z.object({ sum: z.number().int().min(0).max(99) }) }) });
    c.summed(answer.output);
  },
  async cancel() {
    const control = new AbortController();
    let n = 0;
    for await (const _ of streamText({ ...asked, ...limited(c.LONG), abortSignal: control.signal }).textStream) if (++n === 3) control.abort();
  },
  errors: () => c.raises(() => generateText({ ...asked, model: tales(c.NOBODY) }), (e) => e.statusCode === 404 && (ollama ? e.responseBody : e.message).includes(c.NOBODY)),
});
