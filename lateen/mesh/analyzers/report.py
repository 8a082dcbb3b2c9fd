"""Where analyzers put their findings, and what they all need to know about the mesh."""

from collections.abc import Collection, Mapping
from functools import cached_property

from lateen.mesh.diagnostics import Diagnostic, Severity
from lateen.mesh.hosts import DOMAIN_SUFFIX, fqdn, is_wildcard, service_host, similar
from lateen.mesh.metadata import Resource
from lateen.mesh.problems import render_path
from lateen.mesh.selectors import LabelIndex
from lateen.mesh.services import Service, exported
from lateen.mesh.view import MeshView
from lateen.mesh.workloads import Workload
from lateen.mesh.yaml_source import Path

SYSTEM_NAMESPACES = frozenset({"istio-system", "kube-system"})
_MAX_COMPARISONS = 20_000
_API_SERVER = service_host("kubernetes", "default")


class Report:
    """Findings about one view."""

    def __init__(self, view: MeshView) -> None:
        self.view = view
        self._found: dict[Diagnostic, None] = {}
        self._label_pairs: dict[str, frozenset[str]] = {}
        self._comparisons = _MAX_COMPARISONS

    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """What was found, each once, by file, line and column."""
        return tuple(sorted(self._found, key=_order))

    def add(  # noqa: PLR0917 the columns of a finding, always in this order
        self, code: str, severity: Severity, resource: Resource, path: Path, message: str, hint: str = ""
    ) -> None:
        """One finding at a field of a resource."""
        source = self.view.source(resource.key)
        position = source.position(path) if source else None
        self._found[
            Diagnostic(
                code=code,
                severity=severity,
                message=message,
                resource=str(resource.key),
                path=render_path(path),
                file=source.file if source else "",
                line=position.line if position else 0,
                column=position.column if position else 0,
                hint=hint,
                source_line=source.line_text(position.line) if source and position else "",
            )
        ] = None

    def similar(self, word: str, known: Collection[str]) -> str:
        """The known name that was probably meant. Looking for it is slow, so after very many findings no more is guessed."""
        if len(known) > self._comparisons:
            return ""
        self._comparisons -= len(known)
        return similar(word, known)

    # hosts

    def service(self, host: str, namespace: str) -> Service | None:
        """The service that an object in `namespace` means by `host`: by its name, or by a wildcard ServiceEntry."""
        name = fqdn(host, namespace)
        return self.view.service_for(namespace, name) or self._wildcard_service(name, namespace)

    def _wildcard_service(self, name: str, namespace: str) -> Service | None:
        for service in self._wildcards:
            fits = is_wildcard(service.hostname) and name.endswith(service.hostname[1:])
            if fits and exported(service.export_to, service.namespace, namespace):
                return service
        return None

    @cached_property
    def _wildcards(self) -> tuple[Service, ...]:
        found = [service for host, service in self.view.services.items() if is_wildcard(host)]
        return tuple(sorted(found, key=lambda service: -len(service.hostname)))

    def is_system_host(self, name: str) -> bool:
        """Whether a host belongs to Kubernetes or to the mesh's own namespaces: these are rarely among a user's files."""
        namespace = _namespace_of(name)
        return name == _API_SERVER or namespace in SYSTEM_NAMESPACES or namespace == self.view.root_namespace

    def is_generated_host(self, name: str) -> bool:
        """Whether a host is the Service that a Gateway API Gateway brings with it."""
        return name in self._generated

    @cached_property
    def _generated(self) -> frozenset[str]:
        gateways = self.view.k8s_gateways()
        return frozenset(service_host(f"{g.name}-{g.spec.gateway_class_name}", g.namespace) for g in gateways)

    def host_hint(self, host: str, namespace: str) -> str:
        """What to write instead of a host that does not exist."""
        name = fqdn(host, namespace)
        hidden = self.view.services_named(name)
        if hidden:
            owner = hidden[0]
            return f"{owner.origin} exists, but its exportTo does not include namespace {namespace}"
        if "." not in host:
            elsewhere = [known for known in self._hosts if known.startswith(f"{host.lower()}.")]
            if elsewhere:
                return f'a short name means a service of namespace {namespace}: did you mean "{elsewhere[0]}"?'
        if f"{name}.{DOMAIN_SUFFIX}" in self.view.services:
            return f'write the full name: "{name}.{DOMAIN_SUFFIX}"'
        if name.endswith(".svc") and f"{name.removesuffix('.svc')}.{DOMAIN_SUFFIX}" in self.view.services:
            return f'write the full name: "{name.removesuffix(".svc")}.{DOMAIN_SUFFIX}"'
        meant = self._similar_host(host, name, namespace)
        if meant:
            return f'did you mean "{meant}"?'
        return "declare a Service or a ServiceEntry with this host"

    def _similar_host(self, host: str, name: str, namespace: str) -> str:
        """As short as the author wrote it; what all names end in would make any two of them similar."""
        suffix = f".{DOMAIN_SUFFIX}"
        if "." not in host:
            own = f".{namespace}{suffix}"
            return self.similar(host.lower(), [known.removesuffix(own) for known in self._hosts if known.endswith(own)])
        meant = self.similar(name.removesuffix(suffix), [known.removesuffix(suffix) for known in self._hosts])
        return f"{meant}{suffix}" if f"{meant}{suffix}" in self.view.services else meant

    @cached_property
    def _hosts(self) -> tuple[str, ...]:
        return tuple(self.view.services)

    # workloads

    def selected(self, namespace: str, labels: Mapping[str, str]) -> list[Workload]:
        """The workloads that a selector of an object in `namespace` selects; one in the root namespace selects in all."""
        root = namespace == self.view.root_namespace
        return [found for found in self._labels.select(labels) if root or found.namespace == namespace]

    def selected_anywhere(self, labels: Mapping[str, str]) -> bool:
        """Whether any namespace has a workload with these labels."""
        return bool(self._labels.select(labels))

    @cached_property
    def _labels(self) -> LabelIndex[Workload]:
        return LabelIndex((workload.labels, workload) for workload in self.view.workloads)

    def label_hint(self, namespace: str, selector: Mapping[str, str]) -> str:
        """The label that was probably meant, when an object in `namespace` selects nothing."""
        pairs = self._pairs("" if namespace == self.view.root_namespace else namespace)
        for key, value in sorted(selector.items()):
            if f"{key}={value}" not in pairs:
                meant = self.similar(f"{key}={value}", pairs)
                return f"did you mean {meant.replace('=', ': ', 1)}?" if meant else ""
        return ""

    def _pairs(self, namespace: str) -> frozenset[str]:
        """All labels of a namespace's workloads ("": of all)."""
        found = self._label_pairs.get(namespace)
        if found is None:
            workloads = [w for w in self.view.workloads if namespace in {"", w.namespace}]
            found = frozenset(f"{key}={value}" for workload in workloads for key, value in workload.labels.items())
            self._label_pairs[namespace] = found
        return found


def label_text(labels: Mapping[str, str]) -> str:
    """`app=a, version=v1`."""
    return ", ".join(f"{key}={value}" for key, value in sorted(labels.items()))


def _namespace_of(name: str) -> str:
    parts = name.removesuffix(f".{DOMAIN_SUFFIX}").split(".")
    return parts[1] if len(parts) > 1 else ""


def _order(diagnostic: Diagnostic) -> tuple[str, int, int, str, str, str, str]:
    d = diagnostic
    return (d.file, d.line, d.column, d.code, d.resource, d.path, d.message)
