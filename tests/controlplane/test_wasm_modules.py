"""What a module's address and its bytes say, and whether a configuration fits: without I/O."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from filters.sdk.config import ConfigError, FilterConfig, config_schema, decode_config
from lateen.agent.wasm_noop import noop_module
from lateen.controlplane.wasm_binary import read_module
from lateen.controlplane.wasm_oci import credentials_of
from lateen.controlplane.wasm_schema import check_config
from lateen.controlplane.wasm_url import ModuleError, parse_module_url
from lateen.mesh.wasmplugin import WasmConfig
from tests.controlplane.modules import module

A, B = "a" * 64, "b" * 64
HERE = Path("/etc/mesh")


def _config(**values: object) -> WasmConfig:
    return WasmConfig.model_validate(values)


@pytest.mark.parametrize(
    ("values", "shown", "sha256", "always"),
    [
        ({"url": "file:///opt/a.wasm"}, "file:///opt/a.wasm", "", False),
        ({"url": "file://filters/a.wasm"}, "file:///etc/mesh/filters/a.wasm", "", False),
        ({"url": "https://me:secret@host/a.wasm?sha256=" + A}, "https://host/a.wasm", A, False),
        ({"url": f"https://host/a.wasm?sha256={A.upper()}"}, "https://host/a.wasm", A, False),
        ({"url": "http://host/a.wasm", "imagePullPolicy": "Always"}, "http://host/a.wasm", "", True),
        ({"url": "oci://ghcr.io/org/a:v1"}, "oci://ghcr.io/org/a:v1", "", False),
        ({"url": "ghcr.io/org/a"}, "oci://ghcr.io/org/a:latest", "", True),
        ({"url": "ghcr.io/org/a", "imagePullPolicy": "IfNotPresent"}, "oci://ghcr.io/org/a:latest", "", False),
        ({"url": "test"}, "oci://docker.io/library/test:latest", "", True),
        ({"url": "org/a:1"}, "oci://docker.io/org/a:1", "", False),
        ({"url": "oci://localhost:5000/a:1", "sha256": A}, "oci://localhost:5000/a:1", A, False),
        (
            {"url": f"oci://h.example/a@sha256:{A}", "imagePullPolicy": "Always"},
            f"oci://h.example/a@sha256:{A}",
            A,
            False,
        ),
    ],
)
def test_addresses(values: dict[str, Any], shown: str, sha256: str, always: bool) -> None:
    found = parse_module_url(_config(**values), "default", HERE)
    assert (str(found), found.sha256, found.always) == (shown, sha256, always)


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"url": f"oci://h.example/a@sha256:{A}", "sha256": B}, f"sha256 is {B}, but the url says {A}"),
        ({"url": f"https://h/a?sha256={A}", "sha256": B}, "but the url says"),
        ({"url": "https://h/a?sha256=abc"}, "not 64 hexadecimal digits"),
        ({"url": "oci://h.example/a@md5:abc"}, "is not sha256"),
        ({"url": "oci://h.example/UPPER"}, "not the name of an image"),
        ({"url": "oci://h.example?x=/a"}, "not the name of an image"),
        ({"url": f"oci://h.example/a@sha256:{A.upper()}"}, "in lower case"),
    ],
)
def test_addresses_that_contradict_themselves(values: dict[str, Any], error: str) -> None:
    with pytest.raises(ModuleError, match=error):
        parse_module_url(_config(**values), "default", HERE)


@pytest.mark.parametrize("url", ["http://[::1/a.wasm", "https://h]/a"])
def test_what_is_no_address_never_reaches_the_control_plane(url: str) -> None:
    with pytest.raises(ValidationError, match="url is no address"):
        _config(url=url)


def test_a_relative_file_needs_a_yaml_file_beside_it() -> None:
    with pytest.raises(ModuleError, match="absolute path"):
        parse_module_url(_config(url="file://a.wasm"), "default", None)


@pytest.mark.parametrize(
    ("host", "plain"),
    [
        ("localhost:5000", True),
        ("127.0.0.1:5000", True),
        ("localhost.evil.example", False),
        ("127.0.0.1.nip.io", False),
    ],
)
def test_only_a_registry_of_this_host_is_asked_without_tls(host: str, plain: bool) -> None:
    found = parse_module_url(_config(url=f"oci://{host}/a"), "default", None)
    assert found.image is not None
    assert found.image.plain is plain


# Modules


def test_a_module_says_what_it_holds() -> None:
    assert read_module(noop_module()).filters is None
    facts = read_module(module(filters={"one": {"type": "object"}, "two": {}}))
    assert facts.abi == "0_2_1"
    assert facts.filters == {"one": {"type": "object"}, "two": {}}


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", "not a WebAssembly module"),
        (b"<html>", "not a WebAssembly module"),
        (b"\0asm\x0d\0\1\0", "a component, not a core module"),
        (noop_module()[:8], "exports no proxy_abi_version"),
        (noop_module()[:-3], "cut off"),
        (noop_module().replace(b"0_2_1", b"9_9_9"), "ABI 9_9_9"),
        (module() + b"\0\x0f\rlateen.filter[", "manifest is damaged"),
        (noop_module() + b"\0\xff\xff\xff\xff\xff\xff", "damaged"),
    ],
)
def test_what_is_no_module(data: bytes, error: str) -> None:
    with pytest.raises(ModuleError, match=error):
        read_module(data)


@given(st.data())
def test_damaged_modules_are_refused_or_read_but_never_crash(data: st.DataObject) -> None:
    good = bytearray(module(filters={"one": {}}))
    for _ in range(data.draw(st.integers(1, 8))):
        good[data.draw(st.integers(8, len(good) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ModuleError):
        assert read_module(bytes(good)).abi


# Configurations: the check agrees with the filter's own


class _Rule(FilterConfig):
    path: str
    status: int = 403


class _Config(FilterConfig):
    message: str
    retry_after: int = 60
    ratio: float = 0.5
    on: bool = True
    rules: tuple[_Rule, ...] = ()
    names: dict[str, int] = {}  # noqa: RUF012
    maybe: str | None = None
    either: int | list[str] = 0


_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.just(0.5), st.sampled_from(["", "x"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2),
        st.dictionaries(st.sampled_from(["path", "status", "x"]), inner, max_size=2),
    ),
    max_leaves=4,
)
_FIELDS = ["message", "retryAfter", "retry_after", "ratio", "on", "rules", "names", "maybe", "either", "nope"]


@given(st.dictionaries(st.sampled_from(_FIELDS), _VALUES, max_size=4))
def test_a_configuration_is_refused_exactly_when_the_filter_would_refuse_it(config: dict[str, Any]) -> None:
    problems = check_config(json.loads(json.dumps(config_schema(_Config))), config)
    assert bool(problems) is _refused(config), problems


def _refused(config: dict[str, Any]) -> bool:
    try:
        decode_config(_Config, config)
    except ConfigError:
        return True
    return False


@pytest.mark.parametrize(
    ("config", "path", "message"),
    [
        ({}, (), "message is required"),
        ({"message": 5}, ("message",), "must be a string, got 5"),
        ({"message": "", "retryAfer": 1}, ("retryAfer",), "did you mean retryAfter?"),
        ({"message": "", "rules": [{"path": "/"}, {"path": 1}]}, ("rules", 1, "path"), "must be a string"),
        ({"message": "", "lateen": {"onError": "maybe"}}, ("lateen", "onError"), "must be one of 'open', 'closed'"),
        ({"message": "", "lateen": {"onErr": "open"}}, ("lateen", "onErr"), "did you mean onError"),
    ],
)
def test_a_refusal_says_where_and_why(config: dict[str, Any], path: tuple[object, ...], message: str) -> None:
    ((found, said),) = check_config(config_schema(_Config), config)
    assert found == path
    assert message in said


@pytest.mark.parametrize(
    ("auths", "registry", "user"),
    [
        ({"h.example": {"username": "u", "password": "p"}}, "h.example", "u"),
        ({"https://h.example/v2/": {"auth": "dTpw"}}, "h.example", "u"),
        ({"https://index.docker.io/v1/": {"auth": "dTpw"}}, "docker.io", "u"),
        ({"other.example": {"auth": "dTpw"}}, "h.example", None),
    ],
)
def test_passwords_of_registries(auths: dict[str, Any], registry: str, user: str | None) -> None:
    found = credentials_of(json.dumps({"auths": auths}), registry)
    assert (found.user if found else None) == user
