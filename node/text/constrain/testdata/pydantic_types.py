"""Writes the JSON schemas of pydantic's types to pydantic.json. Needs pydantic and
email-validator:

    python3 pydantic_types.py > pydantic.json
"""
import json
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from pathlib import Path
from typing import Annotated, Any, Dict, FrozenSet, Generic, List, Literal, NamedTuple, Optional, Set, Tuple, TypeVar, Union
from uuid import UUID

import pydantic as p
from typing_extensions import TypedDict
from annotated_types import Len, MultipleOf


class Colour(Enum):
    red = "red"
    green = "green"


class Level(IntEnum):
    low = 1
    high = 2


class Point(NamedTuple):
    x: int
    y: float


class Movie(TypedDict, total=False):
    title: str
    year: int


@dataclass
class Person:
    name: str
    age: int = 0


class Cat(p.BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(p.BaseModel):
    kind: Literal["dog"] = "dog"
    name: str


class Node(p.BaseModel):
    value: int
    next: Optional["Node"] = None
    children: List["Node"] = []


class Closed(p.BaseModel):
    model_config = p.ConfigDict(extra="forbid")
    a: int


class Open(p.BaseModel):
    model_config = p.ConfigDict(extra="allow")
    a: int


T = TypeVar("T")


class Page(p.BaseModel, Generic[T]):
    items: List[T]
    total: p.NonNegativeInt


TYPES = {
    "str": str, "int": int, "float": float, "bool": bool, "None": None, "Any": Any, "bytes": bytes, "Decimal": Decimal,
    "Decimal with places": Annotated[Decimal, p.Field(max_digits=6, decimal_places=2)], "date": date, "datetime": datetime, "time": time, "timedelta": timedelta,
    "NaiveDatetime": p.NaiveDatetime, "AwareDatetime": p.AwareDatetime, "UUID": UUID, "UUID4": p.UUID4, "EmailStr": p.EmailStr, "NameEmail": p.NameEmail,
    "HttpUrl": p.HttpUrl, "AnyUrl": p.AnyUrl, "IPv4Address": IPv4Address, "IPv6Address": IPv6Address, "IPvAnyAddress": p.IPvAnyAddress, "IPv4Network": IPv4Network,
    "Path": Path, "FilePath": p.FilePath, "SecretStr": p.SecretStr, "Base64Bytes": p.Base64Bytes, "ByteSize": p.ByteSize, "Json": p.Json,
    "Enum": Colour, "IntEnum": Level, "Literal": Literal["a", 1, None, True], "Optional": Optional[int], "Union": Union[int, str, List[int]],
    "list": List[int], "list with lengths": Annotated[List[str], Len(1, 3)], "set of str": Set[str], "set of enum": Set[Colour], "frozenset of int": FrozenSet[int],
    "set of bool": Annotated[Set[bool], Len(1, 2)], "tuple": Tuple[int, str], "tuple of any length": Tuple[int, ...], "NamedTuple": Point, "TypedDict": Movie, "dataclass": Person,
    "dict": Dict[str, int], "dict of Literal": Dict[Literal["a", "b"], int], "dict of Enum": Dict[Colour, float], "dict of int": Dict[int, str], "dict of UUID": Dict[UUID, int],
    "dict of constrained": Annotated[Dict[Annotated[str, p.StringConstraints(pattern="^[a-z]+$", max_length=5)], int], Len(1, 3)],
    "discriminated": Annotated[Union[Cat, Dog], p.Field(discriminator="kind")], "recursive": Node, "closed": Closed, "open": Open, "generic": Page[Person],
    "multiple of 5": Annotated[int, MultipleOf(5)], "multiple of 0.01": Annotated[float, p.Field(multiple_of=0.01, ge=0)], "multiple of 0.25": Annotated[float, p.Field(multiple_of=0.25, ge=0, le=2)],
    "conint": p.conint(gt=0, lt=100, multiple_of=7), "confloat": p.confloat(ge=0, le=1), "PositiveInt": p.PositiveInt, "NegativeFloat": p.NegativeFloat,
    "constr": p.constr(min_length=2, max_length=10, pattern=r"^\w+$"), "past": p.PastDate, "PaymentCardNumber": Annotated[str, p.StringConstraints(min_length=12, max_length=19, pattern=r"^\d+$")],
}

out = {}
for name, t in TYPES.items():
    out[name] = p.TypeAdapter(t).json_schema(mode="validation")
    if not (isinstance(t, type) and issubclass(t, p.BaseModel)):
        out["field of " + name] = p.create_model("Model", a=(t, ...)).model_json_schema()
print("{\n" + ",\n".join(json.dumps(k) + ": " + json.dumps(v, separators=(",", ":")) for k, v in out.items()) + "\n}")
