"""OpenAI's own client at /v1/responses, which stores answers."""
import json

import openai
from pydantic import BaseModel, Field

from cases import *

client = openai.OpenAI(base_url=BASE + "/v1", api_key="none")
agent = openai.OpenAI(base_url=AGENT_BASE + "/v1", api_key="none")
asked = dict(model=MODEL, input=QUESTION, temperature=0, max_output_tokens=TOKENS)


class Sum(BaseModel):
    sum: int = Field(ge=0, le=99)


def chat():
    answer = client.responses.create(**asked)
    same(answer.output_text)
    check(client.responses.retrieve(answer.id).output_text == TEXT, "the stored answer differs")


def stream():
    with client.responses.stream(**asked) as s:
        events = list(s)
    streamed([e.delta for e in events if e.type == "response.output_text.delta"])
    check(events[-1].type == "response.incomplete" and events[-1].response.usage.output_tokens == TOKENS, events[-1])


def tools():
    offered = [{"type": "function", "name": "weather", "parameters": WEATHER}]
    first = agent.responses.create(model=AGENT_MODEL, input=ASK_WEATHER, tools=offered)
    call = first.output[0]
    check(json.loads(call.arguments) == {"city": "Oslo"}, call)
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
    reported(agent.responses.create(model=AGENT_MODEL, input=[result], previous_response_id=first.id, tools=offered).output_text)


def structure():
    answer = client.responses.parse(model=MODEL, input=ASK_SUM, text_format=Sum)
    check(isinstance(answer.output_parsed, Sum), answer)


def cancel():
    with client.responses.create(**asked | {"max_output_tokens": LONG}, stream=True) as s:
        for event in s:
            if event.type == "response.output_text.delta":
                break


def errors():
    raises(openai.NotFoundError, client.responses.create, **asked | {"model": NOBODY})


run(chat=chat, stream=stream, tools=tools, structure=structure, cancel=cancel, errors=errors)
