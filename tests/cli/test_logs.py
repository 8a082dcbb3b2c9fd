"""Which logs belong to a workload, and what of them is printed."""

from pathlib import Path

import pytest

from lateen.cli.logs import choose_logs, last_lines

FILES = [
    Path(name)
    for name in (
        "controlplane.log",
        "orders-0.app.log",
        "orders-0.envoy.log",
        "payments-api-v1-0.app.log",
        "payments-api-v1-1.app.log",
        "payments-api-v1-1.envoy.log",
        "payments-api-v10-0.app.log",
    )
]


@pytest.mark.parametrize(
    ("workload", "container", "expected"),
    [
        pytest.param("orders", None, ["orders-0.app", "orders-0.envoy"], id="workload"),
        pytest.param("payments-api-v1", "app", ["payments-api-v1-0.app", "payments-api-v1-1.app"], id="container"),
        pytest.param("payments-api-v1-1", None, ["payments-api-v1-1.app", "payments-api-v1-1.envoy"], id="replica"),
        pytest.param("controlplane", None, ["controlplane"], id="service"),
        pytest.param("payments-api", None, [], id="only a prefix"),
        pytest.param(".*", None, [], id="no regex"),
    ],
)
def test_choice(workload: str, container: str | None, expected: list[str]) -> None:
    assert [path.stem for path in choose_logs(FILES, workload, container)] == expected


def test_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_bytes(b"one\ntwo\n\xff three\n")
    assert list(last_lines(log, 2)) == ["two", "\ufffd three"]
    assert len(list(last_lines(log, 0))) == 3
