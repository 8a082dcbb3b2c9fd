"""RateLimitPolicy compiled: the two sides agree, and matching is what the policy says."""

import re

import pytest

from lateen.policy.limit_actions import envoy_rate_limits, stages
from lateen.policy.limits import compile_limits, path_regex, string_regex, workload_limits
from tests.policy.rate_limit_policy import POLICY, policy


def test_every_descriptor_becomes_an_entry_in_order() -> None:
    first, second = compile_limits(policy())
    assert [entry.key for entry in first.entries] == [
        "policy",
        "match",
        "header:x-tenant",
        "path",
        "principal",
        "claim:realm.tenant",
        "remote_address",
        "value",
    ]
    assert [entry.key for entry in second.entries] == ["policy"]
    assert (first.identifier, second.identifier) == ("payments/charge/per-tenant", "payments/charge/all")
    assert (first.shadow, second.shadow, second.unit) == (False, True, "minute")


def test_both_sides_have_the_same_entries() -> None:
    """What Envoy is told to send, action by action, is what the service is told to expect."""
    compiled = compile_limits(policy())
    expected = workload_limits("payments/x", [(limit, "policy.yaml", 2) for limit in compiled])
    for rate_limit, limit in zip(envoy_rate_limits([policy()]), expected.limits, strict=True):
        assert len(rate_limit.actions) == len(limit.entries)
        for action, entry in zip(rate_limit.actions, limit.entries, strict=True):
            match action.WhichOneof("action_specifier"):
                case "generic_key":
                    assert (action.generic_key.descriptor_key, action.generic_key.descriptor_value) == (
                        entry.key,
                        entry.value,
                    )
                case "header_value_match":
                    assert (action.header_value_match.descriptor_key, action.header_value_match.descriptor_value) == (
                        entry.key,
                        entry.value,
                    )
                case "request_headers":
                    assert action.request_headers.descriptor_key == entry.key
                case "metadata":
                    assert action.metadata.descriptor_key == entry.key
                case "remote_address":
                    assert entry.key == "remote_address"
                case other:
                    assert other == "extension"
                    assert entry.key in {"path", "principal"}


def test_the_failure_mode_is_the_stage() -> None:
    assert stages([policy()]) == {1}
    assert stages([policy(POLICY.replace("failureMode: deny", "failureMode: allow"))]) == {0}
    assert {r.stage.value for r in envoy_rate_limits([policy()])} == {1}


@pytest.mark.parametrize(
    ("pattern", "matches", "misses"),
    [
        pytest.param("/v1/charge", ["/v1/charge"], ["/v1/charges", "/v1/charge/", "/v1/Charge"], id="exact"),
        pytest.param("/v1/*", ["/v1/", "/v1/a/b"], ["/v1", "/v2/a"], id="prefix"),
        pytest.param("*/charge", ["/charge", "/v1/charge"], ["/charge/x"], id="suffix"),
        pytest.param("*", ["/", "/x"], [""], id="presence"),
        pytest.param("/v1/{*}/x", ["/v1/a/x"], ["/v1/a/b/x", "/v1//x"], id="one segment"),
        pytest.param("/v1/{**}", ["/v1/", "/v1/a/b"], ["/v1"], id="rest"),
        pytest.param("/a.b+c", ["/a.b+c"], ["/axb+c", "/a.bbc"], id="no regex characters"),
    ],
)
def test_paths(pattern: str, matches: list[str], misses: list[str]) -> None:
    regex = re.compile(rf"(?:{path_regex(pattern)})(?:\?.*)?")
    for path in matches:
        assert regex.fullmatch(path)
        assert regex.fullmatch(path + "?q=/v1/charge")
    for path in misses:
        assert not regex.fullmatch(path)
        assert not regex.fullmatch(path + "?q=/v1/charge")


def test_strings() -> None:
    assert re.fullmatch(string_regex("PO*"), "POST")
    assert not re.fullmatch(string_regex("POST"), "XPOST")
