"""What every client's program here shares: where to ask, what is expected, and the report.

run(list=..., chat=...) takes the cases that the client has, in order. Each is a function,
or a coroutine, that raises if anything is not as it should be. The lines it prints are for
the runner: "case NAME", then "ok NAME" or "fail NAME why", and "end" at last.
"""
import asyncio
import inspect
import os
import time
import traceback
import warnings

warnings.simplefilter("ignore")

BASE = os.environ["BASE"]  # a network that tells tales
MODEL = os.environ["MODEL"]
TEXT = os.environ["TEXT"]  # the first TOKENS tokens that it answers to QUESTION, at temperature 0
AGENT_BASE = os.environ["AGENT_BASE"]  # a network that answers by a script: one call of weather, then REPORT
AGENT_MODEL = os.environ["AGENT_MODEL"]
QUESTION = "Tell me a story about a fox."
TOKENS = 16
LONG = 400
ASK_WEATHER = "How is the weather in Oslo?"
REPORT = os.environ["REPORT"]  # {"city": "Oslo", "weather": "rain"}
NOBODY = "no-such-model"

WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
SUM = {
    "type": "object",
    "properties": {"sum": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["sum"],
    "additionalProperties": False,
}
ASK_SUM = "What is 2 and 2?"


def check(holds, what):
    if not holds:
        raise AssertionError(what)


def same(text):
    check(text == TEXT, f"the text is {text!r}, not {TEXT!r}")


def some(text):
    check(isinstance(text, str) and text.strip(), f"the text is {text!r}")


def streamed(pieces):
    """A stream came in pieces, and they are the text."""
    pieces = [p for p in pieces if p]
    check(len(pieces) > 3, f"the stream has {len(pieces)} pieces")
    same("".join(pieces))


def reported(text):
    check(text == REPORT, f"the answer after the call is {text!r}, not {REPORT!r}")


def raises(kinds, call, *args, **kwargs):
    """call fails with one of the client's own errors, and says what is wrong."""
    try:
        call(*args, **kwargs)
    except kinds as e:
        check(NOBODY in str(e), f"the error says {e}")
        return
    raise AssertionError("an unknown model is no error")


def run(**cases):
    for name, case in cases.items():
        print("case", name, flush=True)
        try:
            result = case()
            if inspect.iscoroutine(result):
                asyncio.run(result)
            print("ok", name, flush=True)
        except Exception as e:
            traceback.print_exc()
            print("fail", name, " ".join(f"{type(e).__name__}: {e}".split())[:600], flush=True)
    print("end", flush=True)
    time.sleep(0.1)
    os._exit(0)  # whatever threads a client has left
