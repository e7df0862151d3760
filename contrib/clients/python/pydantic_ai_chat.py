"""Pydantic AI, at /v1/chat/completions."""
from pydantic import BaseModel, Field
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from cases import *


def model(base=BASE, name=MODEL):
    return OpenAIChatModel(name, provider=OpenAIProvider(base_url=base + "/v1", api_key="none"))


class Sum(BaseModel):
    sum: int = Field(ge=0, le=99)


class Report(BaseModel):
    city: str
    weather: str


short = {"temperature": 0, "max_tokens": TOKENS}


def chat():
    same(Agent(model()).run_sync(QUESTION, model_settings=short).output)


async def stream():
    async with Agent(model()).run_stream(QUESTION, model_settings=short) as s:
        streamed([p async for p in s.stream_text(delta=True, debounce_by=None)])


def tools():
    """A typed result beside a tool that the model is free to call."""
    agent, called = Agent(model(AGENT_BASE, AGENT_MODEL), output_type=NativeOutput(Report)), []

    @agent.tool_plain
    def weather(city: str) -> str:
        called.append(city)
        return "rain"

    out = agent.run_sync(ASK_WEATHER).output
    check(out == Report(city="Oslo", weather="rain") and called == ["Oslo"], (out, called))


def structure():
    out = Agent(model(), output_type=NativeOutput(Sum)).run_sync(ASK_SUM).output
    check(isinstance(out, Sum), out)


def errors():
    raises(ModelHTTPError, Agent(model(name=NOBODY)).run_sync, QUESTION)


run(chat=chat, stream=stream, tools=tools, structure=structure, errors=errors)
