"""Shared types: durations, URLs, aliases, and how a Spec behaves."""

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lateen.mesh.destinationrule import OutlierDetection
from lateen.mesh.kinds import KINDS
from lateen.mesh.shape import fields_of, model_at, walk
from lateen.mesh.spec import StringMatch, parse_duration, render_duration
from lateen.mesh.urls import scheme_of
from lateen.mesh.virtualservice import VirtualService, VirtualServiceSpec


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10s", 10),
        ("1m30s", 90),
        ("1.5h", 5400),
        ("250ms", 0.25),
        (".5s", 0.5),
        ("0", 0),
        ("0s", 0),
        ("-1s", -1),
        ("+2s", 2),
        ("1h2m3s4ms", 3723.004),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text", ["", "5", "s", "5x", "1s2", "1 s", "--1s", "1e3s", "1s " * 40, "9" * 30 + "h", "∞s", "٣s"]
)
def test_not_durations(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.integers(0, 10**12))
def test_rendered_durations_are_read_back(micros: int) -> None:
    value = timedelta(microseconds=micros)
    assert abs(parse_duration(render_duration(value)) - value) <= timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("url", "scheme"),
    [
        ("http://x", "http"), ("HTTPS://x/y?z#q", "https"), ("/a", ""), ("mailto:a", "mailto"), ("http://[::1]:80/", "http"), ("http://u:p@h", "http"), ("http://::1", "http"), ("http://a/b c", "http"),
        ("", None), ("a", None), (":a", None), ("http://a b", None), ("http://a\x07", None), ("http://%zz/", None), ("http://a/%zz", None),
        ("http://a:b/", None), ("http://#%b@", None), ("http://u^@h", None),
    ],
)  # fmt: skip
def test_url_schemes(url: str, scheme: str | None) -> None:
    assert scheme_of(url) == scheme


def test_names() -> None:
    assert "consecutive5xxErrors" in fields_of(OutlierDetection)
    match = StringMatch(exact="a")
    assert match.model_dump(exclude_unset=True) == {"exact": "a"}
    assert StringMatch.model_validate({"exact": "a"}) == match


def test_frozen_and_strict() -> None:
    spec = VirtualServiceSpec(hosts=("a",))
    with pytest.raises(ValidationError):
        spec.hosts = ()  # type: ignore[misc]  # the test is that this fails
    with pytest.raises(ValidationError):
        VirtualServiceSpec.model_validate({"hosts": [5]})


def test_yaml_names_only_in_yaml() -> None:
    with pytest.raises(ValidationError):
        VirtualServiceSpec.model_validate({"export_to": ["."]}, by_alias=True, by_name=False)


def test_one_of_looks_at_what_was_written() -> None:
    with pytest.raises(ValidationError, match="only one of exact and prefix"):
        StringMatch(exact="a", prefix="b")
    assert StringMatch(exact="a", prefix=None).exact == "a"


def test_shapes() -> None:
    assert model_at(VirtualService, ("spec", "http", 0, "match", 1, "headers", "x")) is StringMatch
    assert model_at(VirtualService, ("spec", "http")) is None
    assert model_at(VirtualService, ("nothing",)) is None


@pytest.mark.parametrize("info", KINDS.values(), ids=lambda info: info.id)
def test_every_field_has_a_camel_case_name(info: object) -> None:
    model = KINDS[getattr(info, "id", "")].model
    for path, _ in walk(model):
        name = path.split(".")[-1].removesuffix("[]").removesuffix("<>")
        assert name[0].islower(), path
        assert not name.endswith("_"), path
        assert "_" not in name or name in {"mirror_percent", "jwks_uri"}, path
