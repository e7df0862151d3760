// The steps that cmd/shoal's TestClients has both official clients take: this is
// Node's. Each step prints one line of JSON, which the test judges. Steps and
// requests are read from standard input: {"base", "key", "steps": [{"step",
// "request", "key", "stop_after"}]}.
import OpenAI from "openai";

let input = "";
for await (const piece of process.stdin) input += piece;
const { base, key, steps } = JSON.parse(input);

// outcome of a step: what a person sees of it.
async function take({ step, request, key: other, stop_after: stopAfter }) {
  const client = new OpenAI({ baseURL: base, apiKey: other ?? key, maxRetries: 0 });
  const out = { step };
  const add = (choice, piece) => {
    out.text = (out.text ?? "") + (piece.content ?? "");
    for (const call of piece.tool_calls ?? []) {
      out.calls ??= [];
      out.calls.push({ name: call.function.name, arguments: call.function.arguments });
    }
    if (choice.finish_reason) out.finish = choice.finish_reason;
  };
  try {
    switch (step.split(" ")[0]) {
      case "list":
        out.models = (await client.models.list()).data.map((m) => m.id);
        break;
      case "embeddings":
        await client.embeddings.create(request);
        break;
      case "response": {
        const { data, response } = await client.responses.create(request).withResponse();
        Object.assign(out, { text: data.output_text, finish: data.status, tokens: data.usage.output_tokens });
        out.route = response.headers.get("x-shoal-route");
        break;
      }
      case "response-stream": {
        const stream = client.responses.stream(request);
        Object.assign(out, { text: "", chunks: 0 });
        for await (const event of stream) {
          if (event.type === "response.output_text.delta") out.text += event.delta;
          out.chunks++;
        }
        const whole = await stream.finalResponse();
        Object.assign(out, { finish: whole.status, tokens: whole.usage.output_tokens });
        break;
      }
      case "stream":
      case "cancel": {
        const stream = await client.chat.completions.create({ ...request, stream: true, stream_options: { include_usage: true } });
        out.chunks = 0;
        for await (const chunk of stream) {
          for (const choice of chunk.choices) add(choice, choice.delta);
          if (chunk.usage) out.tokens = chunk.usage.completion_tokens;
          out.chunks++;
          if (stopAfter && out.chunks >= stopAfter) {
            stream.controller.abort();
            out.cancelled = true;
            break;
          }
        }
        break;
      }
      default: {
        const { data, response } = await client.chat.completions.create(request).withResponse();
        for (const choice of data.choices) add(choice, choice.message);
        out.tokens = data.usage.completion_tokens;
        out.route = response.headers.get("x-shoal-route");
        out.timing = response.headers.get("server-timing");
      }
    }
  } catch (e) {
    if (!(e instanceof OpenAI.APIError)) throw e;
    Object.assign(out, { status: e.status, code: e.code, type: e.type, param: e.param });
  }
  return out;
}

for (const step of steps) console.log(JSON.stringify(await take(step)));
