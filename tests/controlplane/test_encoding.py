"""Responses joined by hand against protobuf's own opinion of them."""

import pytest
from google.protobuf import any_pb2
from google.rpc import status_pb2
from hypothesis import given
from hypothesis import strategies as st

from lateen.controlplane.blobs import Blob
from lateen.controlplane.encoding import encode_delta, encode_sotw, parse_delta, parse_sotw
from lateen.controlplane.session import DeltaRequest, Push, SotwRequest
from lateen.controlplane.typestate import ProtocolViolation
from lateen.envoyapi.envoy.config.core.v3 import base_pb2
from lateen.envoyapi.envoy.service.discovery.v3 import discovery_pb2

texts = st.text(max_size=300)
blobs = st.builds(Blob, texts, texts, texts, st.one_of(st.binary(max_size=300), st.just(b"x" * 100_000)))
pushes = st.builds(
    Push,
    texts,
    texts,
    texts,
    st.lists(blobs, max_size=4).map(tuple),
    st.lists(st.text(min_size=1), max_size=3).map(tuple),
)


@given(pushes)
def test_a_delta_response_is_what_protobuf_would_write(push: Push) -> None:
    assert discovery_pb2.DeltaDiscoveryResponse.FromString(encode_delta(push)) == discovery_pb2.DeltaDiscoveryResponse(
        system_version_info=push.version,
        type_url=push.type_url,
        nonce=push.nonce,
        removed_resources=push.removed,
        resources=[
            discovery_pb2.Resource(name=b.name, version=b.hash, resource=any_pb2.Any(type_url=b.type_url, value=b.data))
            for b in push.resources
        ],
    )


@given(pushes)
def test_a_state_of_the_world_response_is_what_protobuf_would_write(push: Push) -> None:
    assert discovery_pb2.DiscoveryResponse.FromString(encode_sotw(push)) == discovery_pb2.DiscoveryResponse(
        version_info=push.version,
        type_url=push.type_url,
        nonce=push.nonce,
        resources=[any_pb2.Any(type_url=b.type_url, value=b.data) for b in push.resources],
    )


def test_requests_are_read() -> None:
    error = status_pb2.Status(code=3, message="no")
    delta = discovery_pb2.DeltaDiscoveryRequest(
        node=base_pb2.Node(id="n"),
        type_url="t",
        resource_names_subscribe=["a"],
        resource_names_unsubscribe=["b"],
        initial_resource_versions={"c": "1"},
        response_nonce="7",
        error_detail=error,
    )
    request, node = parse_delta(delta.SerializeToString())
    assert (request, node.id) == (DeltaRequest("t", ("a",), ("b",), {"c": "1"}, "7", "no"), "n")
    sotw = discovery_pb2.DiscoveryRequest(type_url="t", resource_names=["a"], response_nonce="7")
    assert parse_sotw(sotw.SerializeToString())[0] == SotwRequest("t", ("a",), "7", None)


@pytest.mark.parametrize("parse", [parse_delta, parse_sotw])
def test_nonsense_is_a_violation(parse: object) -> None:
    assert callable(parse)
    with pytest.raises(ProtocolViolation):
        parse(b"\xff\xff\xff")
