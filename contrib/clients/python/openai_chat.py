"""OpenAI's own client at /v1/chat/completions."""
import json

import openai
from pydantic import BaseModel, Field

from cases import *

client = openai.OpenAI(base_url=BASE + "/v1", api_key="none")
agent = openai.OpenAI(base_url=AGENT_BASE + "/v1", api_key="none")
asked = dict(model=MODEL, messages=[{"role": "user", "content": QUESTION}], temperature=0, max_tokens=TOKENS)


class Sum(BaseModel):
    sum: int = Field(ge=0, le=99)


def models():
    check(MODEL in [m.id for m in client.models.list()], "the model is not listed")


def chat():
    answer = client.chat.completions.create(**asked)
    same(answer.choices[0].message.content)
    check(answer.usage.completion_tokens == TOKENS, f"usage is {answer.usage}")


def stream():
    pieces, usage = [], None
    for chunk in client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        pieces += [c.delta.content for c in chunk.choices]
        usage = chunk.usage or usage
    streamed(pieces)
    check(usage.completion_tokens == TOKENS, f"usage is {usage}")


def tools():
    offered = [{"type": "function", "function": {"name": "weather", "parameters": WEATHER}}]
    messages = [{"role": "user", "content": ASK_WEATHER}]
    first = agent.chat.completions.create(model=AGENT_MODEL, messages=messages, tools=offered).choices[0]
    call = first.message.tool_calls[0]
    check(first.finish_reason == "tool_calls", first.finish_reason)
    check(json.loads(call.function.arguments) == {"city": "Oslo"}, call)
    messages += [first.message, {"role": "tool", "tool_call_id": call.id, "content": "rain"}]
    reported(agent.chat.completions.create(model=AGENT_MODEL, messages=messages, tools=offered).choices[0].message.content)


def structure():
    answer = client.chat.completions.parse(model=MODEL, messages=[{"role": "user", "content": ASK_SUM}], response_format=Sum)
    check(isinstance(answer.choices[0].message.parsed, Sum), answer)


def cancel():
    with client.chat.completions.create(**asked | {"max_tokens": LONG}, stream=True) as s:
        for _, _ in zip(range(3), s):
            pass


def errors():
    raises(openai.NotFoundError, client.chat.completions.create, **asked | {"model": NOBODY})


run(list=models, chat=chat, stream=stream, tools=tools, structure=structure, cancel=cancel, errors=errors)
