"""Services with their endpoints: who declared a host, who serves it, and which services a workload belongs to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

from lateen.mesh.hosts import is_wildcard
from lateen.mesh.identity import SpiffeId
from lateen.mesh.kinds import ResourceKey
from lateen.mesh.selectors import LabelIndex, by_namespace, selects
from lateen.mesh.serviceentry import ServiceEntry
from lateen.mesh.services import Endpoint, Resolution, Service, ServicePort, exported
from lateen.mesh.workload import WorkloadEntrySpec
from lateen.mesh.workloads import MUTUAL_TLS, PLAINTEXT, Workload, locality_of, tls_mode

PlaintextOnly = Callable[[str, Mapping[str, str], int], bool]
_ServiceId = tuple[str, str]


class Registry:
    """All services and their endpoints. Immutable; endpoints are worked out when they are first asked for."""

    def __init__(
        self,
        kubernetes: Iterable[Service],
        entries: Iterable[tuple[ServiceEntry, tuple[Service, ...]]],
        workloads: Iterable[Workload],
        trust_domain: str,
        plaintext_only: PlaintextOnly,
    ) -> None:
        """Both kinds of service come oldest first; `plaintext_only` says that a workload's port refuses mutual TLS."""
        self._trust_domain = trust_domain
        self._plaintext_only = plaintext_only
        self._workloads = {
            namespace: LabelIndex((workload.labels, workload) for workload in group)
            for namespace, group in by_namespace(workloads, lambda workload: workload.namespace).items()
        }
        self._entry_of: dict[tuple[str, str, int], ServiceEntry] = {}
        by_id = self._merged(kubernetes, entries)
        self.all: tuple[Service, ...] = tuple(by_id.values())
        self._named: dict[str, tuple[Service, ...]] = {
            host: tuple(group) for host, group in by_namespace(self.all, lambda service: service.hostname).items()
        }
        self.by_hostname: Mapping[str, Service] = MappingProxyType(
            {host: group[0] for host, group in sorted(self._named.items())}
        )
        self._selected: dict[ResourceKey, tuple[Workload, ...]] = {}
        self._endpoints: dict[tuple[str, str, int], tuple[Endpoint, ...]] = {}
        self._services_of = self._memberships()

    def _merged(
        self, kubernetes: Iterable[Service], entries: Iterable[tuple[ServiceEntry, tuple[Service, ...]]]
    ) -> dict[_ServiceId, Service]:
        """One service for each hostname and namespace; Kubernetes Services stand first.

        A ServiceEntry with the host of a Kubernetes Service of its namespace only adds subject alternative names. ServiceEntries
        with the same host and namespace are one service: of two with the same port number the older one has it.
        """
        found: dict[_ServiceId, Service] = {(service.hostname, service.namespace): service for service in kubernetes}
        for entry, services in entries:
            for service in services:
                identity = (service.hostname, service.namespace)
                known = found.get(identity)
                if known is None:
                    found[identity] = service
                    new_ports = service.ports
                else:
                    numbers = {port.number for port in known.ports}
                    new_ports = (
                        ()
                        if known.is_kubernetes
                        else tuple(port for port in service.ports if port.number not in numbers)
                    )
                    found[identity] = replace(
                        known,
                        ports=known.ports + new_ports,
                        addresses=known.addresses
                        if known.is_kubernetes
                        else tuple(dict.fromkeys(known.addresses + service.addresses)),
                        subject_alt_names=tuple(dict.fromkeys(known.subject_alt_names + service.subject_alt_names)),
                    )
                for port in new_ports:
                    self._entry_of[service.hostname, service.namespace, port.number] = entry
        return found

    def _memberships(self) -> dict[tuple[str, str], list[tuple[Service, ServicePort]]]:
        members: dict[tuple[str, str], list[tuple[Service, ServicePort]]] = {}
        for service in self.all:
            for port in service.ports:
                for workload in self._selected_by(service, port):
                    members.setdefault((workload.namespace, workload.name), []).append((service, port))
        return members

    def named(self, hostname: str) -> tuple[Service, ...]:
        """The services of that hostname in all namespaces: Kubernetes Services first, then the oldest."""
        return self._named.get(hostname.lower(), ())

    def visible(self, client_namespace: str, hostname: str) -> Service | None:
        """The one a client means: its own namespace's, else the first that is exported to it."""
        seen = [s for s in self.named(hostname) if exported(s.export_to, s.namespace, client_namespace)]
        return next((service for service in seen if service.namespace == client_namespace), seen[0] if seen else None)

    def services_of(self, workload: Workload) -> tuple[tuple[Service, ServicePort, int], ...]:
        """The services that select a workload, each of their ports, and the workload's port behind it."""
        found = self._services_of.get((workload.namespace, workload.name), [])
        targets = ((service, port, self._target(service, port, workload)) for service, port in found)
        return tuple((service, port, target) for service, port, target in targets if target is not None)

    def endpoints(self, service: Service, port: ServicePort, subset_labels: Mapping[str, str]) -> tuple[Endpoint, ...]:
        """The addresses behind a port, in a stable order; of a subset: those whose labels include the subset's."""
        key = (service.hostname, service.namespace, port.number)
        found = self._endpoints.get(key)
        if found is None:
            found = self._endpoints.setdefault(key, tuple(self._resolve(service, port)))
        if not subset_labels:
            return found
        return tuple(endpoint for endpoint in found if selects(subset_labels, endpoint.labels))

    # how endpoints come about

    def _selected_by(self, service: Service, port: ServicePort) -> tuple[Workload, ...]:
        entry = self._entry_of.get((service.hostname, service.namespace, port.number))
        if entry is None:
            key, selector = service.origin, service.selector
        else:
            wanted = entry.spec.workload_selector
            key, selector = entry.key, None if wanted is None else wanted.labels
        if selector is None or service.namespace not in self._workloads:
            return ()
        found = self._selected.get(key)
        if found is None:
            found = self._selected[key] = self._workloads[service.namespace].select(selector)
        return found

    def _resolve(self, service: Service, port: ServicePort) -> Iterable[Endpoint]:
        if service.external_name:
            return self._resolve_alias(service, port)
        workloads = self._selected_by(service, port)
        if workloads:
            found = [self._of_workload(service, port, workload) for workload in workloads]
            return [endpoint for endpoint in found if endpoint is not None]
        return self._of_entry(service, port)

    def _resolve_alias(self, service: Service, port: ServicePort) -> Iterable[Endpoint]:
        """An ExternalName Service: the endpoints of the service it names, else the name itself, for DNS to resolve."""
        target = self.visible(service.namespace, service.external_name)
        if target is not None and target.external_name:
            return ()  # Istio follows one alias; a chain could be a circle
        if target is not None:
            target_port = target.port(port.number)
            return () if target_port is None else self.endpoints(target, target_port, {})
        number = port.target_port if isinstance(port.target_port, int) else port.number
        return (Endpoint(address=service.external_name, port=number),)

    def _target(self, service: Service, port: ServicePort, workload: Workload) -> int | None:
        """The workload's port behind a service port; None when it has no port of that name."""
        if isinstance(port.target_port, str):
            return workload.ports.get(port.target_port)
        if not workload.from_pod and (not port.explicit or not service.is_kubernetes):
            return workload.ports.get(port.name, port.target_port)
        return port.target_port

    def _of_workload(self, service: Service, port: ServicePort, workload: Workload) -> Endpoint | None:
        number = self._target(service, port, workload)
        if number is None or not workload.address or not workload.healthy:
            return None
        return Endpoint(
            address=workload.address,
            port=number,
            workload=workload,
            labels=workload.labels,
            weight=workload.weight,
            locality=workload.locality,
            network=workload.network,
            tls_mode=self._tls_mode(service, workload.tls_mode, workload.labels, number),
            service_account_identity=str(SpiffeId(self._trust_domain, workload.namespace, workload.service_account)),
        )

    def _of_entry(self, service: Service, port: ServicePort) -> Iterable[Endpoint]:
        """The endpoints written in the ServiceEntry; one resolved by DNS that has none is its own endpoint."""
        entry = self._entry_of.get((service.hostname, service.namespace, port.number))
        if entry is None or entry.spec.workload_selector is not None:
            return ()
        number = port.target_port if isinstance(port.target_port, int) else port.number
        if entry.spec.endpoints:
            return [
                self._of_address(service, spec, spec.ports.get(port.name, number))
                for spec in entry.spec.endpoints
                if spec.address
            ]
        by_name = service.resolution in {Resolution.DNS, Resolution.DNS_ROUND_ROBIN}
        return (
            [Endpoint(address=service.hostname, port=number)] if by_name and not is_wildcard(service.hostname) else ()
        )

    def _of_address(self, service: Service, spec: WorkloadEntrySpec, number: int) -> Endpoint:
        account = spec.service_account
        return Endpoint(
            address=spec.address or "",
            port=number,
            labels=dict(sorted(spec.labels.items())),
            weight=spec.weight or 1,
            locality=locality_of(spec.locality, spec.labels),
            network=spec.network or "",
            tls_mode=self._tls_mode(service, tls_mode(spec, spec.labels), spec.labels, number),
            service_account_identity=str(SpiffeId(self._trust_domain, service.namespace, account)) if account else "",
        )

    def _tls_mode(self, service: Service, declared: str, labels: Mapping[str, str], port: int) -> str:
        """Automatic mutual TLS: for members of the mesh, unless a PeerAuthentication disables it there."""
        if declared != MUTUAL_TLS or service.external:
            return PLAINTEXT
        return PLAINTEXT if self._plaintext_only(service.namespace, labels, port) else MUTUAL_TLS
