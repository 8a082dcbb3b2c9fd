"""The mesh that a command speaks about: the running one, from the control plane's API, or the one that files describe."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lateen.cli.apiclient import ControlPlane
from lateen.cli.exits import CommandError, Exit
from lateen.cli.suggestions import meant
from lateen.mesh.analyzers.expected import with_expected_workloads
from lateen.mesh.kinds import ResourceKey
from lateen.mesh.loader import Located, load_mesh_config, load_paths, load_text
from lateen.mesh.meshconfig import MeshConfig
from lateen.mesh.services import Service, ServicePort
from lateen.mesh.view import MeshView
from lateen.mesh.workloads import Workload
from lateen.mesh.yaml_source import SourceMap


def view_of_files(paths: Sequence[Path]) -> MeshView:
    """What the manifests say; a Deployment, Pod, WorkloadGroup or Gateway counts as a workload."""
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise CommandError(Exit.USAGE, f"no such file or directory: {', '.join(missing)}")
    loaded = load_paths(paths)
    invalid = [d for d in loaded.diagnostics if d.invalid]
    if invalid:
        first = invalid[0]
        raise CommandError(
            Exit.INVALID,
            f"{len(invalid)} invalid: {first.file}:{first.line}: {first.message}",
            f"lateen analyze {' '.join(map(str, paths))}",
        )
    return with_expected_workloads(MeshView.build(loaded.resources, loaded.mesh or MeshConfig()))


def view_of_running(api: ControlPlane) -> MeshView:
    """What the control plane holds now."""
    items = api.get("/v1/resources")["items"]
    mesh, _ = load_mesh_config(json.dumps(api.get("/v1/info")["mesh"]), "mesh.yaml")
    return MeshView.build(located_items(items, sources_on_disk(item["source"]["file"] for item in items)), mesh)


def located_items(items: Iterable[Mapping[str, Any]], on_disk: Mapping[ResourceKey, Located]) -> list[Located]:
    """The API's items as resources, each with its place: to the line of a field where the same text is at hand on this host."""
    found = []
    for item in items:
        source = item["source"]
        for located in load_text(json.dumps(item["resource"]), source["file"]).resources:
            twin = on_disk.get(located.resource.key)
            same = twin is not None and twin.resource.to_dict() == located.resource.to_dict()
            whole = SourceMap(source["file"], "", source["line"])
            found.append(Located(located.resource, twin.source if twin is not None and same else whole))
    return found


def sources_on_disk(files: Iterable[str]) -> Mapping[ResourceKey, Located]:
    """What the YAML files that the control plane names say now, as far as they can be read here."""
    readable = sorted({file for file in files if file.endswith((".yaml", ".yml")) and Path(file).is_file()})
    return {located.resource.key: located for located in load_paths(readable).resources}


def find_workload(view: MeshView, text: str) -> Workload:
    """A workload by `NAME`, `NAMESPACE/NAME` or `NAME.NAMESPACE`, or the only one behind a service of that name."""
    namespace, _, name = text.rpartition("/")
    if not namespace and "." in text:
        name, _, namespace = text.partition(".")
    inside = [w for w in view.workloads if namespace in {"", w.namespace}]
    matching = [w for w in inside if name in {w.workload_name, w.name, w.key.partition("/")[2]}]
    if not matching:
        matching = [w for w in inside if any(s.name == name for s, _, _ in view.services_of(w))]
    by_key = {w.key: w for w in sorted(matching, key=lambda w: w.key)}
    if len({_treatment(view, w) for w in by_key.values()}) == 1:
        return next(iter(by_key.values()))
    if by_key:
        raise CommandError(Exit.USAGE, f"{text} may be any of {', '.join(sorted(by_key))}", "write NAMESPACE/NAME")
    raise CommandError(Exit.USAGE, f"no workload named {text}", meant(text, (w.key for w in view.workloads)))


def _treatment(view: MeshView, workload: Workload) -> tuple[object, ...]:
    """What decides about requests from and to a workload: workloads that have it in common (versions) are one to a question."""
    return (
        workload.namespace,
        workload.service_account,
        *(policy.key for policy in view.authorization_policies(workload)),
        *(policy.key for policy in view.request_authentications(workload)),
        *(policy.key for policy in view.peer_authentications(workload.namespace, workload.labels)),
    )


def find_port(
    view: MeshView, workload: Workload, port: int, *, http: bool
) -> tuple[Service | None, ServicePort | None, int]:
    """The port of a workload that is meant: by the workload's own number, else a Service's; 0: the first that fits."""
    served = view.services_of(workload)
    if not port:
        fitting = [s for s in served if s[1].protocol.is_http or s[1].protocol.is_sniffed] if http else []
        chosen = next(iter(fitting or served), None)
        return chosen if chosen is not None else (None, None, next(iter(workload.ports.values()), 0))
    own = [s for s in served if s[2] == port]
    return next(iter(own or [s for s in served if s[1].number == port]), (None, None, port))
