"""Ollama's own client."""
import json

import ollama

from cases import *

client = ollama.Client(host=BASE)
agent = ollama.Client(host=AGENT_BASE)
asked = dict(model=MODEL, messages=[{"role": "user", "content": QUESTION}], options={"temperature": 0, "num_predict": TOKENS})


def models():
    names = [m.model for m in client.list().models]
    check(any(n.split(":")[0] == MODEL for n in names), names)
    check("completion" in client.show(names[0]).capabilities, "show")


def chat():
    answer = client.chat(**asked)
    same(answer.message.content)
    check(answer.eval_count == TOKENS and answer.done_reason == "length", answer)


def stream():
    streamed([part.message.content for part in client.chat(**asked, stream=True)])


def tools():
    def weather(city: str) -> str:
        """The weather.

        Args:
            city: where
        """
        return "rain"

    messages = [{"role": "user", "content": ASK_WEATHER}]
    first = agent.chat(model=AGENT_MODEL, messages=messages, tools=[weather]).message
    call = first.tool_calls[0].function
    check(call.name == "weather" and call.arguments == {"city": "Oslo"}, call)
    messages += [first, {"role": "tool", "tool_name": "weather", "content": weather(**call.arguments)}]
    reported(agent.chat(model=AGENT_MODEL, messages=messages, tools=[weather]).message.content)


def structure():
    answer = client.chat(model=MODEL, messages=[{"role": "user", "content": ASK_SUM}], format=SUM)
    check(0 <= json.loads(answer.message.content)["sum"] <= 99, answer)


def cancel():
    parts = client.chat(**asked | {"options": {"temperature": 0, "num_predict": LONG}}, stream=True)
    for _, _ in zip(range(3), parts):
        pass
    parts.close()


def errors():
    raises(ollama.ResponseError, client.chat, **asked | {"model": NOBODY})


run(list=models, chat=chat, stream=stream, tools=tools, structure=structure, cancel=cancel, errors=errors)
