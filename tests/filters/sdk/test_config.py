"""Configurations as authors declare them, and what is said of values and classes that do not fit."""

# ruff: noqa: RUF012  (defaults as people write them)

import dataclasses
import enum
from collections.abc import Sequence
from typing import Any, Literal

import pytest

from filters.sdk.config import check_config, config_schema, decode_config
from lateen_filter import ConfigError, FilterConfig


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Rank(enum.IntEnum):
    LOW = 1


@dataclasses.dataclass
class Rule:
    path: str
    methods: list[str] = dataclasses.field(default_factory=list)


class Limits(FilterConfig):
    most: int = 3
    colour: Colour = Colour.RED


class Wide(FilterConfig):
    rules: list[Rule] = []
    limits: Limits | None = None
    named: dict[str, Limits] = {}
    pair: tuple[str, int] = ("a", 1)
    words: set[str] = set()
    anything: list = []  # type: ignore[type-arg]  # as people write it
    names: Sequence[str] = ()
    rate: float = 1.0
    either: int | str = 0
    level: Literal["low", 1] = "low"
    rank: Rank = Rank.LOW
    max_size: int = 0


def refused(kind: type, value: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        decode_config(kind, value)
    return caught.value.problems


def test_what_json_holds_becomes_what_is_declared() -> None:
    found: Any = decode_config(
        Wide,
        {
            "rules": [{"path": "/x"}],
            "limits": {"colour": "blue"},
            "named": {"a": {"most": 1}},
            "pair": ["b", 2],
            "words": ["w", "w"],
            "anything": [1, "x"],
            "names": ["n"],
            "rate": 2,
        },
    )
    assert found.rules == [Rule("/x", [])]
    assert (found.limits, found.named) == (Limits(colour=Colour.BLUE), {"a": Limits(most=1)})
    assert (found.pair, found.words, found.anything, found.names) == (("b", 2), {"w"}, [1, "x"], ["n"])
    assert (found.rate, type(found.rate)) == (2.0, float)
    assert check_config(Wide) == []


@pytest.mark.parametrize(
    ("value", "problems"),
    [
        ({"rules": [{"path": "/x", "mthods": []}, {}, 3]}, [
            "rules[0].mthods: no such field (known: path, methods)",
            "rules[1].path: required",
            "rules[2]: expected an object, got 3",
        ]),
        ({"rules": [{"path": "/", "methods": ["GET", None]}]}, ["rules[0].methods[1]: expected a string, got null"]),
        ({"limits": {"colour": "green"}}, ['limits.colour: expected one of "red", "blue", got "green"']),
        ({"named": {"a": {"most": True}}}, ["named.a.most: expected an integer, got true"]),
        ({"pair": ["a"]}, ['pair: expected a list of 2, got ["a"]']),
        ({"rate": float("nan")}, ["rate: expected a number, got NaN"]),
        ({"rate": 10**400}, ["rate: expected a number, got 1" + "0" * 99 + "..."]),
        ({"either": []}, ["either: fits none of the types: expected an integer, got []; expected a string, got []"]),
        ({"level": True}, ['level: expected one of "low", 1, got true']),
        ({"rank": True}, ["rank: expected one of 1, got true"]),
        ({"max_size": 1, "maxSize": 2}, ["maxSize: given twice, as max_size and maxSize"]),
    ],
    ids=lambda item: str(item)[:30] if isinstance(item, dict) else "",
)  # fmt: skip
def test_what_does_not_fit_is_named_by_its_path(value: object, problems: list[str]) -> None:
    assert refused(Wide, value) == problems


def test_a_default_is_nobody_elses() -> None:
    first: Any = decode_config(Wide, {})
    first.anything.append(1)
    second: Any = decode_config(Wide, {})
    assert second.anything == []


def test_the_schema_knows_what_is_required() -> None:
    rule: Any = config_schema(Wide)["properties"]["rules"]["items"]  # type: ignore[index]  # JSON
    assert (rule["required"], sorted(rule["properties"])) == (["path"], ["methods", "path"])


class Plain:
    path: str


class Bad(FilterConfig):
    raw: bytes
    plain: list[Plain]
    keys: dict[int, str]
    untyped = 5
    LIMIT = 7
    validate: bool = True  # type: ignore[assignment]  # an author's mistake


class Endless(FilterConfig):
    inner: "Endless | None" = None


class Unknown(FilterConfig):
    inner: "Nowhere"  # type: ignore[name-defined]  # noqa: F821  (an author's mistake)


def test_classes_that_cannot_be_configurations_are_told_before_any_value() -> None:
    assert check_config(Bad) == [
        "Bad.validate: this name is FilterConfig's own",
        "Bad.untyped: has no type, so nothing is read into it; write untyped: int = ...",
        "Bad.raw: a field cannot be of type bytes: use str, and convert it in on_start",
        "Bad.plain: a field cannot be of type Plain: derive it from FilterConfig, or make it a dataclass",
        "Bad.keys: the keys of a JSON object are strings: write dict[str, ...]",
    ]
    assert check_config(Endless) == ["Endless: a configuration cannot hold itself"]
    with pytest.raises(ConfigError, match="the type of a field is not known: name 'Nowhere' is not defined"):
        check_config(Unknown)
