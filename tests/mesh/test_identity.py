import subprocess
import sys

import pytest

from lateen.mesh.identity import SpiffeId


def test_a_workload_identity_is_read_and_written() -> None:
    uri = "spiffe://cluster.local/ns/orders/sa/orders-svc"
    identity = SpiffeId.parse(uri)
    assert identity == SpiffeId("cluster.local", "orders", "orders-svc")
    assert str(identity) == uri
    assert identity.principal == "cluster.local/ns/orders/sa/orders-svc"


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "https://td/ns/a/sa/b",
        "spiffe://td",
        "spiffe://td/ns/a/sa/",
        "spiffe:///ns/a/sa/b",
        "spiffe://td/ns//sa/b",
        "spiffe://td/ns/a/sa/b/c",
        "spiffe://td/sa/a/ns/b",
        "SPIFFE://td/ns/a/sa/b",
    ],
)
def test_anything_else_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match="spiffe://"):
        SpiffeId.parse(uri)


def test_importing_it_does_not_import_pydantic() -> None:
    code = "import sys, lateen.mesh.identity; sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
