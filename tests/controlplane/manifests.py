"""YAML that many tests need, each document once; `documents` joins them."""

from __future__ import annotations

from collections.abc import Mapping


def documents(*texts: str) -> str:
    """One file of them all."""
    return "---\n".join(text.strip("\n") + "\n" for text in texts)


def static_entry(name: str, hosts: str, address: str, *ports: str, namespace: str = "default") -> str:
    """A ServiceEntry of one endpoint; a port is `NAME NUMBER`, and its protocol is its name in capitals."""
    split = [port.split() for port in ports]
    listed = ", ".join(f"{{name: {n}, number: {number}, protocol: {n.upper()}}}" for n, number in split)
    return f"""apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  hosts: [{hosts}]
  ports: [{listed}]
  resolution: STATIC
  endpoints: [{{address: {address}}}]
"""


def dns_entry(name: str, host: str) -> str:
    """A ServiceEntry of HTTP on port 80 in the namespace shop; its host stands on line 5."""
    return f"""apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}, namespace: shop}}
spec:
  hosts: [{host}]
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  resolution: DNS
"""


def extauthz(address: str) -> str:
    """Where the authorization service listens."""
    host = "lateen-extauthz.istio-system.svc.cluster.local"
    return static_entry("lateen-extauthz", host, address, "grpc 9191", namespace="istio-system")


def service(name: str, namespace: str = "default", *, port: int = 80, target: int = 8080) -> str:
    """A Service of the workloads labelled `app: NAME`."""
    return f"""apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{selector: {{app: {name}}}, ports: [{{name: http, port: {port}, targetPort: {target}}}]}}
"""


def workload(
    name: str, address: str, labels: Mapping[str, str], *, namespace: str = "default", account: str = ""
) -> str:
    """A WorkloadEntry."""
    listed = ", ".join(f"{key}: {value}" for key, value in labels.items())
    identity = f", serviceAccount: {account}" if account else ""
    return f"""apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{address: {address}, labels: {{{listed}}}{identity}}}
"""


def bare_app(app: str, address: str, namespace: str = "default") -> str:
    """The workload APP-0 without a sidecar."""
    labels = {"app": app, "security.istio.io/tlsMode": "disabled"}
    return workload(f"{app}-0", address, labels, namespace=namespace)
