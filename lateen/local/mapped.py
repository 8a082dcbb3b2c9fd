"""Where an application of a loopback mesh finds gRPC and TCP services: ports of its own sidecar, told by environment variables.

HTTP needs none of this: there the sidecar is an ordinary HTTP proxy.
"""

from collections.abc import Iterable, Mapping

from lateen.local.registration import Document, render
from lateen.local.source import Source
from lateen.mesh.kubernetes import Service
from lateen.mesh.loader import load_text
from lateen.mesh.serviceentry import ServiceEntry


def variable(service: str, namespace: str, port_name: str) -> str:
    """`DB_DATA_MYSQL_ADDR` for port `mysql` of service `db` in namespace `data`."""
    text = f"{service}_{namespace}_{port_name}_ADDR"
    return "".join(c if c.isalnum() else "_" for c in text).upper()


def mapped_ports(source: Source, registered: Iterable[Document]) -> Mapping[str, int]:
    """The local port of each service port that an HTTP proxy cannot reach, by variable. Slow to import: call it only when `needed`."""
    from lateen.controlplane import listeners  # noqa: PLC0415  (brings in Envoy's API)
    from lateen.mesh.view import MeshView  # noqa: PLC0415

    own = load_text(render(registered), "lateen-up").resources
    view = MeshView.build([*source.resources, *own], source.mesh)
    names: dict[str, int] = {}
    for (hostname, number), mapped in listeners.mapped_ports(view.services.values()).items():
        service = view.services[hostname]
        port = service.port(number)
        if port is not None and service.namespace != source.mesh.root_namespace:
            names[variable(service.name, service.namespace, port.name or str(number))] = mapped
    return names


def needed(source: Source) -> bool:
    """Whether the manifests declare any port that does not speak plain HTTP."""
    for located in source.resources:
        match located.resource:
            case Service() as service:
                ports = [(port.app_protocol or port.name or "", port.protocol) for port in service.spec.ports]
                if any(not _is_plain_http(protocol) and transport == "TCP" for protocol, transport in ports):
                    return True
            case ServiceEntry() as entry:
                if any(not _is_plain_http(port.protocol or port.name) for port in entry.spec.ports):
                    return True
            case _:
                pass
    return False


def _is_plain_http(name: str) -> bool:
    return name.partition("-")[0].lower() == "http"
