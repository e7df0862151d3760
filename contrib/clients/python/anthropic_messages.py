"""Anthropic's own client."""
import anthropic

from cases import *

client = anthropic.Anthropic(base_url=BASE, api_key="none")
agent = anthropic.Anthropic(base_url=AGENT_BASE, api_key="none")
asked = dict(model=MODEL, messages=[{"role": "user", "content": QUESTION}], max_tokens=TOKENS, extra_body={"temperature": 0})


def models():
    check(MODEL in [m.id for m in client.models.list()], "the model is not listed")


def chat():
    answer = client.messages.create(**asked)
    same(answer.content[0].text)
    check(answer.usage.output_tokens == TOKENS and answer.stop_reason == "max_tokens", answer)
    counted = client.messages.count_tokens(model=MODEL, messages=asked["messages"])
    check(counted.input_tokens == answer.usage.input_tokens, f"{counted} is not {answer.usage}")


def stream():
    with client.messages.stream(**asked) as s:
        streamed(list(s.text_stream))
        check(s.get_final_message().usage.output_tokens == TOKENS, "usage")


def tools():
    offered = [{"name": "weather", "input_schema": WEATHER}]
    messages = [{"role": "user", "content": ASK_WEATHER}]
    first = agent.messages.create(model=AGENT_MODEL, max_tokens=100, messages=messages, tools=offered)
    call = first.content[0]
    check(first.stop_reason == "tool_use" and call.input == {"city": "Oslo"}, first)
    messages += [{"role": "assistant", "content": first.content}, {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "rain"}]}]
    reported(agent.messages.create(model=AGENT_MODEL, max_tokens=100, messages=messages, tools=offered).content[0].text)


def structure():
    answer = client.messages.create(model=MODEL, max_tokens=100, messages=[{"role": "user", "content": ASK_SUM}],
        tools=[{"name": "sum", "input_schema": SUM}], tool_choice={"type": "tool", "name": "sum"})
    check(0 <= answer.content[0].input["sum"] <= 99, answer)


def cancel():
    with client.messages.stream(**asked | {"max_tokens": LONG}) as s:
        for _, _ in zip(range(3), s.text_stream):
            pass


def errors():
    raises(anthropic.NotFoundError, client.messages.create, **asked | {"model": NOBODY})


run(list=models, chat=chat, stream=stream, tools=tools, structure=structure, cancel=cancel, errors=errors)
