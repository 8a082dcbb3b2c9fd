from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf import json_format

from lateen.agent.bootstrap import Mesh, bootstrap, node, render_bootstrap
from lateen.agent.proxyfile import ProxySpec
from lateen.agent.wasm_noop import noop_module
from lateen.controlplane.proxy import Mode, Proxy, ProxyType
from lateen.envoyapi.envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from lateen.envoyapi.envoy.extensions.transport_sockets.tls.v3 import tls_pb2

MESH = Mesh("127.8.0.1:15012", "cluster.local", version="0.1.0")


def spec(**fields: Any) -> ProxySpec:  # noqa: ANN401 - any field of the spec
    return ProxySpec(
        **{
            "name": "orders-0",
            "namespace": "orders",
            "service_account": "orders-svc",
            "address": "127.8.1.2",
            "app_address": "127.8.2.2",
            "sds_socket": "/run/orders-0.sock",
            "workload_name": "orders",
            "labels": {"app": "orders", "version": "v1"},
        }
        | fields
    )


def cluster(message: Bootstrap, name: str) -> Any:  # noqa: ANN401 - a generated message
    return next(each for each in message.static_resources.clusters if each.name == name)


@pytest.mark.parametrize(
    ("proxy", "mesh"),
    [
        pytest.param(spec(), MESH, id="loopback sidecar"),
        pytest.param(spec(mode="REDIRECT", app_address=""), MESH, id="captured sidecar"),
        pytest.param(spec(node_type="router", labels={}, locality="eu/eu-1/a"), MESH, id="gateway"),
        pytest.param(spec(address="::1", app_address="::1"), Mesh("[::1]:15012", "corp.example"), id="IPv6"),
        pytest.param(spec(), Mesh("control.example:15012", "cluster.local"), id="control plane by name"),
    ],
)
def test_the_real_envoy_accepts_it(proxy: ProxySpec, mesh: Mesh, validate_envoy: Callable[[str], None]) -> None:
    validate_envoy(render_bootstrap(bootstrap(proxy, mesh)))


def test_the_control_plane_understands_the_node() -> None:
    assert Proxy.from_node(node(spec(), MESH)) == Proxy(
        id="sidecar~127.8.1.2~orders-0.orders~orders.svc.cluster.local",
        type=ProxyType.SIDECAR,
        name="orders-0",
        namespace="orders",
        address="127.8.1.2",
        app_address="127.8.2.2",
        mode=Mode.NONE,
        labels={"app": "orders", "version": "v1"},
        service_account="orders-svc",
        workload_name="orders",
    )


def test_the_node_is_istios() -> None:
    message = node(spec(locality="eu/eu-1/a"), MESH)
    assert message.cluster == "orders.orders"
    assert (message.locality.region, message.locality.zone, message.locality.sub_zone) == ("eu", "eu-1", "a")
    assert json_format.MessageToDict(message.metadata) == {
        "NAMESPACE": "orders",
        "NAME": "orders-0",
        "WORKLOAD_NAME": "orders",
        "SERVICE_ACCOUNT": "orders-svc",
        "LABELS": {"app": "orders", "version": "v1"},
        "INSTANCE_IPS": "127.8.1.2",
        "INTERCEPTION_MODE": "NONE",
        "CLUSTER_ID": "lateen",
        "MESH_ID": "cluster.local",
        "ISTIO_VERSION": "0.1.0",
        "APP_ADDRESS": "127.8.2.2",
        "LATEEN_MODULES_DIR": "",
    }


def test_id_and_cluster_are_set_even_without_a_workload_name() -> None:
    message = node(spec(workload_name=""), MESH)
    assert message.id
    assert message.cluster == "orders-0.orders"


def test_the_control_plane_must_prove_its_identity() -> None:
    ads = cluster(bootstrap(spec(), Mesh("h:1", "corp.example", "mesh-root")), "xds-grpc")
    context = tls_pb2.UpstreamTlsContext.FromString(ads.transport_socket.typed_config.value)
    validation = context.common_tls_context.combined_validation_context
    names = validation.default_validation_context.match_typed_subject_alt_names
    assert [each.matcher.exact for each in names] == ["spiffe://corp.example/ns/mesh-root/sa/lateen-controlplane"]
    assert validation.validation_context_sds_secret_config.name == "ROOTCA"
    assert [each.name for each in context.common_tls_context.tls_certificate_sds_secret_configs] == ["default"]
    assert list(context.common_tls_context.alpn_protocols) == ["h2"]


def test_loopback_binds_and_dials_from_the_replicas_own_address() -> None:
    message = bootstrap(spec(), MESH)
    addresses = {each.name: each.address.socket_address for each in message.static_resources.listeners}
    assert {name: (each.address, each.port_value) for name, each in addresses.items()} == {
        "readiness": ("127.8.1.2", 15021),
        "prometheus": ("127.8.1.2", 15090),
    }
    assert message.admin.address.socket_address.address == "127.8.1.2"
    assert message.admin.address.socket_address.port_value == 15000
    assert message.cluster_manager.upstream_bind_config.source_address.address == "127.8.1.2"
    assert not any(each.HasField("upstream_bind_config") for each in message.static_resources.clusters)


def test_captured_proxies_keep_their_admin_interface_to_themselves() -> None:
    message = bootstrap(spec(mode="REDIRECT"), MESH)
    assert message.admin.address.socket_address.address == "127.0.0.1"
    assert not message.cluster_manager.HasField("upstream_bind_config")
    assert {each.address.socket_address.address for each in message.static_resources.listeners} == {"0.0.0.0"}


def test_the_proxy_waits_for_its_first_configuration() -> None:
    dynamic = bootstrap(spec(), MESH).dynamic_resources
    for source in (dynamic.cds_config, dynamic.lds_config):
        assert source.HasField("ads")
        assert source.HasField("initial_fetch_timeout")
        assert source.initial_fetch_timeout.ToMilliseconds() == 0


def test_rendering_is_deterministic_and_holds_no_secret() -> None:
    proxy = spec(token="t0ken-t0ken")
    first = render_bootstrap(bootstrap(proxy, MESH))
    assert first == render_bootstrap(bootstrap(spec(labels=dict(reversed(list(proxy.labels.items())))), MESH))
    assert "t0ken" not in first + repr(proxy)


def test_the_wasm_module_is_well_formed() -> None:
    # That V8 accepts it is shown by the real Envoy above, which compiles it while validating.
    module = noop_module()
    assert module.startswith(b"\0asm\x01\0\0\0")
    assert len(module) < 300
    for export in (b"proxy_abi_version_0_2_1", b"proxy_on_vm_start", b"proxy_on_configure", b"memory", b"malloc"):
        assert export in module
