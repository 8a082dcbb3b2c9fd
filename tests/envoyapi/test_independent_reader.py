"""envoy-data-plane, which shares no code or descriptor with us, reads what our classes write."""

from datetime import timedelta

from envoy_data_plane.envoy.config.cluster import v3 as reader
from google.protobuf.duration_pb2 import Duration
from google.protobuf.wrappers_pb2 import UInt32Value

from lateen.envoyapi.envoy.config.cluster.v3.cluster_pb2 import Cluster
from lateen.envoyapi.envoy.config.core.v3.address_pb2 import Address, SocketAddress
from lateen.envoyapi.envoy.config.endpoint.v3.endpoint_components_pb2 import Endpoint, LbEndpoint, LocalityLbEndpoints
from lateen.envoyapi.envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment

NAME = "outbound|9080|v1|reviews.default.svc.cluster.local"


def test_a_cluster_of_ours_means_the_same_to_another_implementation() -> None:
    address = Address(socket_address=SocketAddress(address="127.0.0.1", port_value=9080))
    endpoint = LbEndpoint(endpoint=Endpoint(address=address), load_balancing_weight=UInt32Value(value=3))
    ours = Cluster(
        name=NAME,
        type=Cluster.STRICT_DNS,
        connect_timeout=Duration(seconds=2, nanos=500_000_000),
        load_assignment=ClusterLoadAssignment(
            cluster_name=NAME, endpoints=[LocalityLbEndpoints(lb_endpoints=[endpoint])]
        ),
    )

    read = reader.Cluster.parse(ours.SerializeToString(deterministic=True))

    assert read.name == NAME
    assert read.type is reader.ClusterDiscoveryType.STRICT_DNS
    assert read.connect_timeout == timedelta(seconds=2.5)
    assert read.load_assignment is not None
    ((lb_endpoint,),) = [locality.lb_endpoints for locality in read.load_assignment.endpoints]
    assert lb_endpoint.load_balancing_weight == 3
    assert lb_endpoint.endpoint is not None
    assert lb_endpoint.endpoint.address is not None
    assert lb_endpoint.endpoint.address.socket_address is not None
    assert lb_endpoint.endpoint.address.socket_address.port_value == 9080
