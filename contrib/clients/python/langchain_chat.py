"""LangChain's chat models, by the package that CHAT names."""
import os

from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy
from pydantic import BaseModel, Field

from cases import *

if os.environ["CHAT"] == "openai":
    import openai
    from langchain_openai import ChatOpenAI

    missing = openai.NotFoundError

    def model(base=BASE, name=MODEL, tokens=TOKENS, **more):
        return ChatOpenAI(base_url=base + "/v1", api_key="none", model=name, temperature=0, max_tokens=tokens, max_retries=0, **more)
elif os.environ["CHAT"] == "anthropic":
    import anthropic
    from langchain_anthropic import ChatAnthropic

    missing = anthropic.NotFoundError

    def model(base=BASE, name=MODEL, tokens=TOKENS, **more):
        return ChatAnthropic(base_url=base, api_key="none", model=name, temperature=0, max_tokens=tokens, max_retries=0, **more)
else:
    import ollama
    from langchain_ollama import ChatOllama

    missing = ollama.ResponseError

    def model(base=BASE, name=MODEL, tokens=TOKENS, **more):
        return ChatOllama(base_url=base, model=name, temperature=0, num_predict=tokens, **more)


class Sum(BaseModel):
    """A sum."""

    sum: int = Field(ge=0, le=99)


class Report(BaseModel):
    """A report."""

    city: str
    weather: str


def weather(city: str) -> str:
    """The weather in a city."""
    return "rain in " + city


def chat():
    answer = model().invoke(QUESTION)
    same(answer.text)
    check(answer.usage_metadata["output_tokens"] == TOKENS, answer)


def stream():
    streamed([c.text for c in model().stream(QUESTION)])


def tools():
    """An agent whose result is typed, beside a tool that it is free to call."""
    typed = ProviderStrategy(Report) if os.environ["CHAT"] != "anthropic" else None
    agent = create_agent(model(AGENT_BASE, AGENT_MODEL, 100), tools=[weather], response_format=typed)
    out = agent.invoke({"messages": [("user", ASK_WEATHER)]})
    reported(out["messages"][-1].text)
    check(any(m.type == "tool" and m.content == "rain in Oslo" for m in out["messages"]), out)
    if typed:
        check(out["structured_response"] == Report(city="Oslo", weather="rain"), out)


def structure():
    out = model(tokens=100).with_structured_output(Sum).invoke(ASK_SUM)
    check(isinstance(out, Sum), out)


async def cancel():
    n = 0
    s = model(tokens=LONG).astream(QUESTION)
    async for _ in s:
        n += 1
        if n == 3:
            break
    await s.aclose()


def errors():
    raises(missing, model(name=NOBODY).invoke, QUESTION)


run(chat=chat, stream=stream, tools=tools, structure=structure, cancel=cancel, errors=errors)
