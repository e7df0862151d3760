"""LiteLLM, by the provider that PROVIDER names."""
import json
import os

import litellm

from cases import *

provider = os.environ["PROVIDER"]
path = "/v1" if provider == "openai" else ""
asked = dict(model=f"{provider}/{MODEL}", api_base=BASE + path, api_key="none", messages=[{"role": "user", "content": QUESTION}], temperature=0, max_tokens=TOKENS)


def chat():
    answer = litellm.completion(**asked)
    same(answer.choices[0].message.content)
    check(answer.usage.completion_tokens == TOKENS, answer.usage)


def stream():
    streamed([c.choices[0].delta.content for c in litellm.completion(**asked, stream=True)])


def tools():
    offered = [{"type": "function", "function": {"name": "weather", "description": "the weather", "parameters": WEATHER}}]
    messages = [{"role": "user", "content": ASK_WEATHER}]
    agent = dict(model=f"{provider}/{AGENT_MODEL}", api_base=AGENT_BASE + path, api_key="none", tools=offered, max_tokens=100)
    first = litellm.completion(**agent, messages=messages).choices[0].message
    call = first.tool_calls[0]
    check(json.loads(call.function.arguments) == {"city": "Oslo"}, call)
    messages += [first.model_dump(), {"role": "tool", "tool_call_id": call.id, "content": "rain"}]
    reported(litellm.completion(**agent, messages=messages).choices[0].message.content)


def structure():
    form = {"type": "json_schema", "json_schema": {"name": "sum", "schema": SUM}}
    answer = litellm.completion(**asked | {"messages": [{"role": "user", "content": ASK_SUM}], "max_tokens": 100}, response_format=form)
    check(0 <= json.loads(answer.choices[0].message.content)["sum"] <= 99, answer)


async def cancel():
    s = await litellm.acompletion(**asked | {"max_tokens": LONG}, stream=True)
    n = 0
    async for _ in s:
        n += 1
        if n == 3:
            break
    await s.aclose()


def errors():
    raises((litellm.NotFoundError, litellm.APIConnectionError), litellm.completion, **asked | {"model": f"{provider}/{NOBODY}"}, num_retries=0)


run(chat=chat, stream=stream, tools=tools, structure=structure, cancel=cancel, errors=errors)
