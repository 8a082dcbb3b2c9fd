"""A mistyped name is answered with the one that was probably meant, and with what there is."""

import pytest

from lateen.cli.exits import CommandError
from lateen.cli.meshview import find_workload
from lateen.cli.suggestions import closest, meant
from lateen.mesh.loader import load_text
from lateen.mesh.meshconfig import MeshConfig
from lateen.mesh.view import MeshView

KEYS = ["payments/payments-api-v1", "payments/payments-api-v2", "orders/orders", "legacy-system/ledger"]


@pytest.mark.parametrize(
    ("word", "first"),
    [
        ("ordres", "orders/orders"),
        ("Orders", "orders/orders"),
        ("legacy-system/legder", "legacy-system/ledger"),
        ("payment-api-v2", "payments/payments-api-v2"),
    ],
)
def test_the_name_alone_is_enough(word: str, first: str) -> None:
    assert closest(word, KEYS)[0] == first


def test_replicas_go_by_their_names_too() -> None:
    assert closest("order-0", ["orders-0.orders", "web-0.shop"]) == ["orders-0.orders"]


def test_what_is_like_nothing_is_only_listed() -> None:
    assert closest("zzz", KEYS) == []
    assert meant("zzz", KEYS) == f"there are: {', '.join(sorted(KEYS))}"
    assert meant("zzz", []) == ""


def test_a_long_list_is_cut() -> None:
    told = meant("name-03", [f"ns/name-{number:02}" for number in range(25)], there_are="connected are")
    assert told.startswith("did you mean ns/name-03")
    assert told.endswith("ns/name-09 and 15 more")
    assert "connected are: ns/name-00, " in told


def view(*names: str) -> MeshView:
    texts = [
        "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\n"
        f"metadata: {{name: {name}, namespace: shop, labels: {{app: {name}}}}}\nspec: {{address: 10.0.0.1}}\n"
        for name in names
    ]
    return MeshView.build(load_text("---\n".join(texts), "a.yaml").resources, MeshConfig())


def test_a_mistyped_workload_has_a_suggestion() -> None:
    with pytest.raises(CommandError) as error:
        find_workload(view("orders", "web"), "ordrs")
    assert error.value.message == "no workload named ordrs"
    assert error.value.hint.startswith("did you mean shop/orders? there are: shop/")
