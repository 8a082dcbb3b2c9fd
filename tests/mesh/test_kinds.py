"""The table of kinds."""

import pytest

from lateen.mesh.kinds import KINDS, ResourceKey, find_kind, kind_of, similar_kinds


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("vs", "VirtualService"), ("virtualservices", "VirtualService"), ("VirtualService", "VirtualService"), ("dr", "DestinationRule"),
        ("gateway", "Gateway"), ("gateways", "Gateway"), ("gtw", "Gateway"), ("gw", "IstioGateway"), ("istiogateway", "IstioGateway"),
        ("gateways.networking.istio.io", "IstioGateway"), ("gateway.networking.istio.io", "IstioGateway"), ("svc", "Service"), ("rl", "RateLimitPolicy"),
        ("deployments.apps", "Deployment"),
    ],
)  # fmt: skip
def test_words_of_users(word: str, kind: str) -> None:
    found = find_kind(word)
    assert found is not None
    assert found.id == kind


@pytest.mark.parametrize("word", ["", "nothing", "vs.example.com", "virtual service"])
def test_words_of_nobody(word: str) -> None:
    assert find_kind(word) is None


def test_did_you_mean() -> None:
    assert similar_kinds("virtualservce")[0] == "VirtualService"
    assert similar_kinds("zzz") == ()


@pytest.mark.parametrize("info", KINDS.values(), ids=lambda info: info.id)
def test_models_agree_with_the_table(info: object) -> None:
    entry = KINDS[getattr(info, "id", "")]
    assert entry.model.model_fields["api_version"].default == entry.api_version
    assert entry.model.model_fields["kind"].default == entry.kind
    assert (entry.model.kind_id or entry.model.__name__) == entry.id
    assert entry.model.namespaced is entry.namespaced
    assert kind_of(entry.group, entry.kind) is entry


def test_short_names_are_unique() -> None:
    names = [name for info in KINDS.values() for name in info.short_names]
    assert len(names) == len(set(names))


def test_keys_as_text() -> None:
    assert str(ResourceKey("VirtualService", "b", "a")) == "VirtualService/b/a"
    assert str(ResourceKey("Namespace", "", "a")) == "Namespace/a"
