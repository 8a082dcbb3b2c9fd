"""`lateen describe`: everything that applies to a workload, on one page."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lateen.cli import pluginsof
from lateen.cli.authz import applying, render_applying
from lateen.cli.meshview import find_workload, view_of_files, view_of_running
from lateen.cli.output import Format, emit, render_data, render_table
from lateen.cli.pluginsof import Applied, States
from lateen.mesh.engine import engine_of
from lateen.mesh.view import MeshView
from lateen.mesh.workloads import Workload


def workload(name: str, *, files: Sequence[Path], fmt: Format, control_plane: str | None) -> None:
    """Print what a workload is and what applies to it."""
    if files:
        view = view_of_files(files)
        states = pluginsof.states_of_files(view)
    else:
        from lateen.cli.apiclient import ControlPlane, find_control_plane

        with ControlPlane(find_control_plane(control_plane)) as api:
            view = view_of_running(api)
            states = pluginsof.states_of(api.get("/v1/plugins"))
    page = described(view, find_workload(view, name), states)
    emit(render_data(page, fmt) if fmt in {Format.JSON, Format.YAML} else render(page))


def described(view: MeshView, found: Workload, states: States) -> dict[str, Any]:
    """What `-o json` has."""
    ports = view.services_of(found)
    return {
        "workload": found.key,
        "identity": view.identity_of(found.namespace, found.service_account),
        "labels": dict(found.labels),
        "replicas": sorted(f"{w.name} {w.address}".strip() for w in view.workloads_of_key(found.key)),
        "services": [
            {
                "host": service.hostname,
                "port": port.number,
                "protocol": str(port.protocol),
                "target_port": target,
                "mutual_tls": str(view.mtls_mode(found.namespace, found.labels, target)),
            }
            for service, port, target in ports
        ],
        "enforcement": str(engine_of(view, found)),
        "policies": applying(view, found),
        "plugins": [asdict(plugin) for plugin in pluginsof.applied(view, found, states)],
    }


def render(page: Mapping[str, Any]) -> str:
    """The same for people."""
    labels = ", ".join(f"{name}={value}" for name, value in sorted(page["labels"].items()))
    parts = [f"{page['workload']}  {page['identity']}", f"  labels    {labels or 'none'}"]
    parts += [f"  replicas  {', '.join(page['replicas'])}"] if page["replicas"] else []
    rows = [
        [s["host"], str(s["port"]), s["protocol"], str(s["target_port"]), s["mutual_tls"]] for s in page["services"]
    ]
    if rows:
        parts += ["", render_table(("SERVICE", "PORT", "PROTOCOL", "TARGET PORT", "MUTUAL TLS"), rows)]
    policies = render_applying(page["policies"])
    parts += ["", f"policies ({page['enforcement']}), in the order they are asked:", policies or "  none"]
    plugins = [Applied(**{**plugin, "match": tuple(plugin["match"])}) for plugin in page["plugins"]]
    parts += ["", "plugins, in the order of the chain:", *(pluginsof.lines(plugins) if plugins else ["  none"])]
    return "\n".join(parts)
