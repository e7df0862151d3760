"""Instructor, which asks for structure by a demanded call."""
import instructor
import openai
from pydantic import BaseModel, Field

from cases import *


class Sum(BaseModel):
    """A sum."""

    sum: int = Field(ge=0, le=99)


def client(mode):
    return instructor.from_openai(openai.OpenAI(base_url=BASE + "/v1", api_key="none", max_retries=0), mode=mode)


asked = dict(messages=[{"role": "user", "content": ASK_SUM}], response_model=Sum, max_tokens=100, max_retries=0)


def structure():
    for mode in instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA:
        check(isinstance(client(mode).chat.completions.create(model=MODEL, **asked), Sum), mode)


def errors():
    raises(Exception, client(instructor.Mode.TOOLS).chat.completions.create, model=NOBODY, **asked)


run(structure=structure, errors=errors)
