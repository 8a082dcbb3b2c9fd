"""`lateen apply`, `get` and `delete`: the resources of a running mesh through its apply API."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lateen.cli.apiclient import ControlPlane, find_control_plane
from lateen.cli.exits import CommandError, Exit
from lateen.cli.findings import print_diagnostics
from lateen.cli.output import Colour, Format, emit, render_data, render_table, say
from lateen.cli.suggestions import closest
from lateen.mesh.diagnostics import Diagnostic
from lateen.mesh.kinds import KINDS, KindInfo, find_kind, kind_of, split_api_version
from lateen.mesh.loader import find_files

HTTP_OK, HTTP_CONFLICT, HTTP_INVALID = 200, 409, 422


def apply(files: Sequence[str], *, control_plane: str | None, fmt: Format, colour: Colour) -> None:
    """Send each file whole; a file with an invalid document changes nothing and ends with exit code 3."""
    results: list[dict[str, Any]] = []
    worst, empty = Exit.OK, list[str]()
    with ControlPlane(find_control_plane(control_plane)) as api:
        texts = _read(files)
        for name, text in texts:
            status, answer = api.call("POST", "/v1/apply", params={"origin": "api", "file": name}, body=text)
            diagnostics = [Diagnostic.from_dict(d) for d in answer.get("diagnostics", ())]
            print_diagnostics(diagnostics, colour)
            if status == HTTP_OK:
                results.extend(answer["results"])
                empty += [] if answer["results"] else [name]
            elif status == HTTP_INVALID:
                worst = Exit.INVALID
            else:
                raise CommandError(Exit.FINDINGS, f"{name}: {answer.get('error', answer)}")
    if len(empty) == len(texts):
        raise CommandError(Exit.USAGE, f"nothing to apply: there is no resource in {', '.join(empty or files)}")
    for name in empty:
        say(f"warning: there is no resource in {name}")
    if fmt in {Format.JSON, Format.YAML}:
        emit(render_data({"results": results}, fmt))
    elif fmt is Format.NAME:
        emit("\n".join(r["resource"] for r in results))
    else:
        emit("\n".join(f"{r['resource']} {r['action']}" for r in results))
    raise SystemExit(worst)


def get(kind: str, name: str | None, *, namespace: str | None, fmt: Format, control_plane: str | None) -> None:
    """Print what the control plane holds of a kind, or of all kinds."""
    infos, namespace, name = parse_target(kind, name, namespace)
    where = {"namespace": namespace} if namespace else {}
    with ControlPlane(find_control_plane(control_plane)) as api:
        items = []
        for params in [{"kind": info.id} for info in infos] or [{}]:
            items += api.get("/v1/resources", **params, **where)["items"]
    if name:
        names = [str(item["resource"]["metadata"]["name"]) for item in items]
        items = [item for item, its_name in zip(items, names, strict=True) if its_name == name]
        if not items:
            what = f"not found: {kind}{'' if '/' in kind else '/' + name}"
            raise CommandError(Exit.FINDINGS, what, _other_names(infos, name, names))
    emit(render_items(items, fmt, single=bool(name)))


def delete(kind: str, name: str | None, *, namespace: str | None, control_plane: str | None) -> None:
    """Delete one resource by its key, in the namespace `default` unless told."""
    infos, namespace, name = parse_target(kind, name, namespace)
    if not infos or not name:
        raise CommandError(Exit.USAGE, "say which resource: lateen delete KIND NAME -n NAMESPACE")
    info = infos[0]
    if len(infos) > 1:
        raise CommandError(Exit.USAGE, f"{kind} may be any of {', '.join(map(_full_name, infos))}", "say which one")
    namespace = (namespace or "default") if info.namespaced else "-"
    with ControlPlane(find_control_plane(control_plane)) as api:
        status, answer = api.call("DELETE", f"/v1/resources/{info.id}/{namespace}/{name}")
    if status == HTTP_OK:
        emit(f"{info.id}/{namespace}/{name} deleted")
        return
    hint = "a resource that stands in a file goes when its file does" if status == HTTP_CONFLICT else ""
    raise CommandError(Exit.FINDINGS, str(answer.get("error", answer)), hint)


def render_items(items: Sequence[dict[str, Any]], fmt: Format, *, single: bool = False) -> str:
    """The API's items in one of the formats; `single` prints the one resource itself instead of a list."""
    resources = [item["resource"] for item in items]
    if fmt in {Format.JSON, Format.YAML}:
        return render_data(resources[0] if single and len(resources) == 1 else {"items": resources}, fmt)
    names = [_name(resource) for resource in resources]
    if fmt is Format.NAME:
        return "\n".join(names)
    if not items:
        return "no resources"
    if all("status" in item for item in items):
        return _plugins(items)
    header = ["NAMESPACE", "KIND", "NAME", "ORIGIN"]
    rows = [
        [r["metadata"].get("namespace", ""), _kind(r), r["metadata"]["name"], item["origin"]]
        for r, item in zip(resources, items, strict=True)
    ]
    if fmt is Format.WIDE:
        header += ["API VERSION", "SOURCE"]
        for row, resource, item in zip(rows, resources, items, strict=True):
            source = item["source"]
            row += [resource["apiVersion"], f"{source['file']}:{source['line']}"]
    return render_table(header, sorted(rows))


def _plugins(items: Sequence[dict[str, Any]]) -> str:
    """WasmPlugin and TrafficExtension: what each runs, and why not something else."""
    rows = []
    for item in items:
        metadata, status = item["resource"]["metadata"], item["status"]
        effect = "" if status["state"] == "READY" else "what it ran before" if status["serving"] else "a stub"
        runs = f"{status['filter'] or 'module'}@{status['module'][:12]}" if status["module"] else ""
        rows.append([metadata.get("namespace", ""), item["resource"]["kind"], metadata["name"], status["state"]])
        rows[-1] += [effect or runs or "script", status["reason"]]
    return render_table(["NAMESPACE", "KIND", "NAME", "STATE", "RUNS", "REASON"], sorted(rows))


def _name(resource: dict[str, Any]) -> str:
    metadata = resource["metadata"]
    return "/".join(part for part in (_kind(resource), metadata.get("namespace", ""), metadata["name"]) if part)


def _kind(resource: dict[str, Any]) -> str:
    """The kind, with its group where another group has a kind of that name (both have a Gateway)."""
    group, _ = split_api_version(resource["apiVersion"])
    info = kind_of(group, resource["kind"])
    return _full_name(info) if info is not None and len(_namesakes(info)) > 1 else str(resource["kind"])


def _full_name(info: KindInfo) -> str:
    """`Gateway.networking.istio.io`, as kubectl writes it."""
    return f"{info.kind}.{info.group}" if info.group else info.kind


def _namesakes(info: KindInfo) -> list[KindInfo]:
    return [other for other in KINDS.values() if other.kind == info.kind]


def parse_target(kind: str, name: str | None, namespace: str | None) -> tuple[list[KindInfo], str | None, str | None]:
    """The kinds, namespace and name that `vs/reviews`, `vs reviews`, `vs`, `all` or `VirtualService/shop/reviews` mean.

    No kind is all of them; several are those of one name, when no group tells them apart.
    CommandError(USAGE) with a suggestion for an unknown kind.
    """
    word, _, suffix = kind.partition("/")
    inside, slash, last = suffix.partition("/")
    if slash:
        if namespace not in {None, inside}:
            raise CommandError(Exit.USAGE, f"{kind} is not in the namespace {namespace}")
        namespace, suffix = inside, last
    if word == "all":
        return [], namespace, suffix or name
    info = find_kind(word)
    if info is not None:
        ambiguous = word.lower() in {info.kind.lower(), info.plural}
        return _namesakes(info) if ambiguous else [info], namespace, suffix or name
    words = {alias: kind.id for kind in KINDS.values() for alias in (kind.id.lower(), kind.plural, *kind.short_names)}
    close = closest(word, words)
    hint = f"did you mean {words[close[0]]}?" if close else "one of: " + ", ".join(sorted(KINDS))
    raise CommandError(Exit.USAGE, f"unknown kind: {word}", hint)


def _other_names(infos: Sequence[KindInfo], name: str, names: Sequence[str]) -> str:
    close = closest(name, names)
    return f"did you mean {close[0]}?" if close else f"list them with: lateen get {infos[0].plural if infos else 'all'}"


def _read(files: Sequence[str]) -> list[tuple[str, str]]:
    """(name, text) of every file named, directories expanded as all commands do (lateen.mesh.loader)."""
    texts: list[tuple[str, str]] = []
    for name in files:
        path = Path(name)
        if name == "-":
            texts.append(("stdin", _text("stdin", sys.stdin.buffer.read)))
        elif path.is_dir():
            inside = [found for found, _ in find_files([path]) if found.stem not in {"lateen", "mesh"}]
            texts.extend((str(found), _text(str(found), found.read_bytes)) for found in inside)
        else:
            texts.append((name, _text(name, path.read_bytes)))
    return texts


def _text(name: str, read: Callable[[], bytes]) -> str:
    try:
        return read().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(Exit.USAGE, f"cannot read {name}: {error}") from error
