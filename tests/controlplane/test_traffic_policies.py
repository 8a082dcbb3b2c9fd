"""Which policy applies to a port or subset, and locality priorities."""

from __future__ import annotations

from datetime import timedelta

import pytest

from lateen.controlplane import locality
from lateen.controlplane.traffic_policies import effective_policy, outlier_detection, tcp_idle_timeout, with_defaults
from lateen.mesh.destinationrule import DestinationRule, LocalityDistribute, LocalityFailover, OutlierDetection
from lateen.mesh.meshconfig import DefaultTrafficPolicy
from lateen.mesh.services import Endpoint

_RULE = DestinationRule.model_validate(
    {
        "apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule",
        "metadata": {"name": "a"},
        "spec": {
            "host": "a",
            "trafficPolicy": {
                "loadBalancer": {"simple": "RANDOM"},
                "outlierDetection": {"consecutive5xxErrors": 7},
                "tls": {"mode": "DISABLE"},
                "portLevelSettings": [{"port": {"number": 9}, "loadBalancer": {"simple": "ROUND_ROBIN"}}],
            },
            "subsets": [
                {"name": "plain"},
                {
                    "name": "own",
                    "trafficPolicy": {
                        "tls": {"mode": "ISTIO_MUTUAL"},
                        "connectionPool": {"tcp": {"idleTimeout": "0s"}},
                    },
                },
                {
                    "name": "ported",
                    "trafficPolicy": {"portLevelSettings": [{"port": {"number": 8}, "tls": {"mode": "ISTIO_MUTUAL"}}]},
                },
            ],
        },
    }
)


def _modes(port: int, subset: str = "") -> tuple[str | None, int | None, str | None]:
    policy = effective_policy(_RULE, port, subset)
    balancer, outlier, tls = policy.load_balancer, policy.outlier_detection, policy.tls
    return (
        str(balancer.simple) if balancer else None,
        outlier.consecutive_5xx_errors if outlier else None,
        str(tls.mode) if tls else None,
    )


@pytest.mark.parametrize(
    ("port", "subset", "expected"),
    [
        (8, "", ("RANDOM", 7, "DISABLE")),
        (9, "", ("ROUND_ROBIN", None, None)),
        (8, "plain", ("RANDOM", 7, "DISABLE")),
        (9, "plain", ("ROUND_ROBIN", None, None)),
        (8, "own", ("RANDOM", 7, "ISTIO_MUTUAL")),
        (9, "own", ("ROUND_ROBIN", None, "ISTIO_MUTUAL")),
        (8, "ported", (None, None, "ISTIO_MUTUAL")),
        (8, "unknown", ("RANDOM", 7, "DISABLE")),
    ],
)
def test_port_and_subset(port: int, subset: str, expected: tuple[str | None, int | None, str | None]) -> None:
    assert _modes(port, subset) == expected


def test_no_rule_and_mesh_defaults() -> None:
    nothing = effective_policy(None, 80)
    assert nothing.load_balancer is None
    defaults = DefaultTrafficPolicy(outlier_detection=OutlierDetection(consecutive_5xx_errors=3))
    assert with_defaults(nothing, defaults).outlier_detection is defaults.outlier_detection
    kept = with_defaults(effective_policy(_RULE, 8), defaults).outlier_detection
    assert kept is not None
    assert kept.consecutive_5xx_errors == 7


def test_tcp_idle_timeout() -> None:
    assert tcp_idle_timeout(effective_policy(None, 80)) == timedelta(hours=1)
    assert tcp_idle_timeout(effective_policy(_RULE, 8, "own")) == timedelta(0)


def test_zero_errors_switch_a_detector_off() -> None:
    off = outlier_detection(OutlierDetection(consecutive_5xx_errors=0))
    assert off.enforcing_consecutive_5xx.value == 0
    default = outlier_detection(OutlierDetection())
    assert (default.consecutive_5xx.value, default.enforcing_consecutive_5xx.value) == (5, 100)
    assert default.enforcing_consecutive_gateway_failure.value == 0
    assert default.max_ejection_percent.value == 10


def test_failover_order_has_no_gaps() -> None:
    names = ["eu/a/1", "eu/a/2", "eu/b", "us/a", "ap/a"]
    assert locality.by_failover("eu/a/1", names, ()) == {"eu/a/1": 0, "eu/a/2": 1, "eu/b": 2, "us/a": 3, "ap/a": 3}
    rules = [LocalityFailover(from_="eu", to="us")]
    assert locality.by_failover("eu/c", ["us/a", "ap/a"], rules) == {"us/a": 0, "ap/a": 1}


def test_failover_priority_counts_leading_matches_only() -> None:
    client = {"version": "v1", "zone": "a"}

    def rank(**labels: str) -> int:
        return locality.label_rank(("version", "zone"), client, "", Endpoint("1.2.3.4", 1, labels=labels))

    assert [rank(version="v1", zone="a"), rank(version="v1", zone="b"), rank(version="v2", zone="a")] == [0, 1, 2]


def test_distribution() -> None:
    rules = [LocalityDistribute(from_="eu/*", to={"eu/a": 70, "us/*": 30})]
    weights = locality.by_distribute("eu/a", {"eu/a": 2, "us/a": 1, "us/b": 2, "ap/a": 5}, rules)
    assert weights == {"eu/a": 7000, "us/a": 1000, "us/b": 2000}
    assert locality.by_distribute("us/a", {"eu/a": 1}, rules) is None
