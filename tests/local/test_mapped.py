from pathlib import Path

import pytest

from lateen.local.mapped import mapped_ports, needed, variable
from lateen.local.source import read_directory

SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: db, namespace: data}
spec: {selector: {app: db}, ports: [{name: PORT, port: 5432}]}
"""


@pytest.mark.parametrize(
    ("port", "wanted"),
    [
        ("http", False),
        ("http-web", False),
        ("tcp", True),
        ("grpc-web-api", True),
        ("mysql", True),
        ("http2", True),
        ("tls", True),
    ],
)
def test_only_what_an_http_proxy_cannot_carry_is_mapped(tmp_path: Path, port: str, wanted: bool) -> None:
    (tmp_path / "db.yaml").write_text(SERVICE.replace("PORT", port))
    assert needed(read_directory(tmp_path)) is wanted


def test_the_variable_names_the_port(tmp_path: Path) -> None:
    (tmp_path / "db.yaml").write_text(SERVICE.replace("PORT", "tcp-pg"))
    ((name, port),) = mapped_ports(read_directory(tmp_path), []).items()
    assert name == variable("db", "data", "tcp-pg") == "DB_DATA_TCP_PG_ADDR"
    assert port >= 20000
