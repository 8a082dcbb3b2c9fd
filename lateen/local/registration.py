"""The resources that the runner itself registers at the control plane. Pure: plan and addresses in, plain objects out.

JSON is YAML, so `render` writes JSON documents: values need no quoting rules.
"""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lateen.local import placement
from lateen.local.placement import Replica
from lateen.local.plan import WORKLOAD_NAME_LABEL, GatewayService

Document = dict[str, Any]

# Name, port, port name and address number of each of our own services, in the root namespace. The name is its service account too.
OWN_SERVICES = (
    ("lateen-controlplane", 15012, "grpc-xds", placement.CONTROL_PLANE),
    ("lateen-ca", 15013, "grpc-ca", placement.CA),
    ("lateen-extauthz", 9191, "grpc-authz", placement.EXTAUTHZ),
    ("lateen-ratelimit", 8081, "grpc-ratelimit", placement.RATELIMIT),
)


def workload_entry(replica: Replica, *, serves: bool) -> Document:
    """The WorkloadEntry of one replica. One that does not serve has the condition by which Istio's health checks keep traffic away."""
    workload = replica.workload
    spec: Document = {
        "address": replica.address,
        "labels": dict(workload.labels),
        "serviceAccount": workload.service_account,
    }
    if workload.service_ports:
        spec["ports"] = dict(workload.service_ports)
    document = _document("networking.istio.io/v1", "WorkloadEntry", workload.namespace, replica.name, spec)
    return document if serves else {**document, "status": {"conditions": [{"type": "Healthy", "status": "False"}]}}


def gateway_service(service: GatewayService, vip: str = "") -> Document:
    """The Service of a generated gateway: Istio's has the declared ports, leading to where the proxy really listens."""
    ports = [
        {
            "name": port.name,
            "port": port.port,
            "targetPort": port.target_port,
            "protocol": "TCP",
            "appProtocol": "tls" if port.tls else "http",
        }
        for port in service.ports
    ]
    spec: Document = {"selector": dict(service.labels), "ports": ports}
    if vip:
        spec["clusterIP"] = vip
    return _document("v1", "Service", service.namespace, service.name, spec)


def own_services(root_namespace: str, address_of: Mapping[int, str]) -> list[Document]:
    """Service and WorkloadEntry of the control plane, the CA, ext_authz and the rate limit service."""
    documents = []
    for name, port, port_name, number in OWN_SERVICES:
        labels = {"app": name, WORKLOAD_NAME_LABEL: name}
        ports = [{"name": port_name, "port": port, "targetPort": port}]
        service = {"selector": {"app": name}, "ports": ports}
        entry = {"address": address_of[number], "labels": labels, "serviceAccount": name}
        documents += [
            _document("v1", "Service", root_namespace, name, service),
            _document("networking.istio.io/v1", "WorkloadEntry", root_namespace, f"{name}-0", entry),
        ]
    return documents


def tls_secret(namespace: str, name: str, certificate_pem: bytes, key_pem: bytes) -> Document:
    """A Kubernetes TLS secret."""
    data = {
        "tls.crt": base64.b64encode(certificate_pem).decode(),
        "tls.key": base64.b64encode(key_pem).decode(),
    }
    return {**_meta("v1", "Secret", namespace, name), "type": "kubernetes.io/tls", "data": data}


def with_vip(service: Mapping[str, Any], vip: str) -> Document:
    """A copy of a Service that has a cluster IP."""
    return {**service, "spec": {**service.get("spec", {}), "clusterIP": vip}}


def render(documents: Iterable[Mapping[str, Any]]) -> str:
    """One YAML text for the apply API."""
    return "\n---\n".join(json.dumps(document) for document in documents)


def key_of(document: Mapping[str, Any]) -> tuple[str, str, str]:
    """Kind, namespace and name."""
    metadata = document["metadata"]
    return document["kind"], metadata["namespace"], metadata["name"]


def changes(
    before: Mapping[tuple[str, str, str], Document], after: Sequence[Document]
) -> tuple[list[Document], list[tuple[str, str, str]]]:
    """What to apply and what to delete to come from one registration to the next."""
    wanted = {key_of(document): document for document in after}
    applied = [document for key, document in wanted.items() if before.get(key) != document]
    return applied, [key for key in before if key not in wanted]


def _meta(api_version: str, kind: str, namespace: str, name: str) -> Document:
    return {"apiVersion": api_version, "kind": kind, "metadata": {"name": name, "namespace": namespace}}


def _document(api_version: str, kind: str, namespace: str, name: str, spec: Document) -> Document:
    return {**_meta(api_version, kind, namespace, name), "spec": spec}
