"""OpenAI's Agents SDK, at /v1/chat/completions."""
import openai
from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, Runner, function_tool, set_tracing_disabled
from pydantic import BaseModel, Field

from cases import *

set_tracing_disabled(True)


def model(base=BASE, name=MODEL):
    return OpenAIChatCompletionsModel(model=name, openai_client=openai.AsyncOpenAI(base_url=base + "/v1", api_key="none", max_retries=0))


class Sum(BaseModel):
    sum: int = Field(ge=0, le=99)


class Report(BaseModel):
    city: str
    weather: str


def tales(name=MODEL, tokens=TOKENS, **more):
    return Agent(name="tales", model=model(name=name), model_settings=ModelSettings(temperature=0, max_tokens=tokens), **more)


async def chat():
    same((await Runner.run(tales(), QUESTION)).final_output)


async def stream():
    s = Runner.run_streamed(tales(), QUESTION)
    streamed([e.data.delta async for e in s.stream_events() if e.type == "raw_response_event" and e.data.type == "response.output_text.delta"])


async def tools():
    """A typed result beside a tool that the model is free to call."""
    called = []

    @function_tool
    def weather(city: str) -> str:
        """The weather."""
        called.append(city)
        return "rain"

    out = (await Runner.run(Agent(name="agent", model=model(AGENT_BASE, AGENT_MODEL), tools=[weather], output_type=Report), ASK_WEATHER)).final_output
    check(out == Report(city="Oslo", weather="rain") and called == ["Oslo"], (out, called))


async def structure():
    check(isinstance((await Runner.run(tales(tokens=100, output_type=Sum), ASK_SUM)).final_output, Sum), "no sum")


async def errors():
    try:
        await Runner.run(tales(NOBODY), QUESTION)
    except openai.NotFoundError as e:
        check(NOBODY in str(e), e)
        return
    check(False, "an unknown model is no error")


run(chat=chat, stream=stream, tools=tools, structure=structure, errors=errors)
