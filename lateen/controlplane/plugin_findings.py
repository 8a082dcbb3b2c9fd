"""What `analyze` says of plugins: of a running mesh what its keeper knows, of files what they tell, and whether scripts load."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from lateen.controlplane.envoy_trial import TrialUnavailableError
from lateen.controlplane.plugin_keeper import PluginStanding, PluginState
from lateen.controlplane.plugin_requests import NO_LUA, NO_MODULE, NO_USE, Problem, fit, refused, requests_of
from lateen.controlplane.plugin_trial import Trial, TrialFailedError
from lateen.controlplane.plugins import LuaServing
from lateen.controlplane.wasm_binary import read_module
from lateen.controlplane.wasm_fetch import MAX_MODULE_BYTES, check_digest
from lateen.controlplane.wasm_url import DigestError, ModuleError
from lateen.mesh.diagnostics import Diagnostic, Severity
from lateen.mesh.kinds import ResourceKey
from lateen.mesh.problems import render_path
from lateen.mesh.view import MeshView
from lateen.mesh.yaml_source import SourceMap

_SCRIPT_LINE = re.compile(r"line (\d+): ")
_BLOCK = re.compile(r":\s*[|][-+0-9]*\s*(#.*)?$")
_HINTS = {
    NO_MODULE: "it is fetched again and again",
    NO_USE: "build it with `lateen filter build`, or ask its author for a Proxy-Wasm module",
}


def plugin_findings(view: MeshView, states: Iterable[PluginState]) -> Iterator[Diagnostic]:
    """What keeps plugins from running as they are written, with its place."""
    for state in states:
        if state.problem is not None:
            hint = _HINTS.get(state.problem.code, "")
            effect = "what it ran before stays in effect" if state.serving else "a stub stands in, as failStrategy says"
            severity = Severity.WARNING if state.standing is PluginStanding.READY else Severity.ERROR
            yield _diagnostic(
                view.source(state.key), state.key, state.problem, severity, f"{hint}; {effect}" if hint else effect
            )


def file_findings(view: MeshView) -> tuple[Diagnostic, ...]:
    """Of plugins whose module is a file, without a control plane: the file, its sha256, filters and configuration."""
    found = []
    for request in requests_of(view).values():
        problem = request.problem
        if problem is None and request.url is not None and request.url.kind == "file":
            try:
                path = Path(request.url.url)
                if not path.is_file():
                    raise ModuleError(f"{path} does not exist")
                if path.stat().st_size > MAX_MODULE_BYTES:
                    raise ModuleError(f"it is larger than {MAX_MODULE_BYTES} bytes")
                data = path.read_bytes()
                digest = check_digest(data, request.url.sha256)
            except ModuleError as error:
                problem = request.blamed(str(error), digest=isinstance(error, DigestError))
            except OSError as error:
                problem = Problem(NO_MODULE, (*request.base, "url"), f"{request.url}: {error.strerror}")
            else:
                try:
                    outcome = fit(request, digest, str(path), read_module(data))
                    problem = outcome if isinstance(outcome, Problem) else None
                except ModuleError as error:
                    problem = Problem(NO_USE, (*request.base, "url"), str(error))
        if problem is not None:
            found.append(_diagnostic(view.source(request.key), request.key, problem, Severity.ERROR, ""))
    return tuple(found)


def script_findings(view: MeshView, trial: Trial) -> tuple[Diagnostic, ...]:
    """Lua scripts that Envoy does not load; none where that cannot be tried. Costs a short-lived process if there is any script."""
    scripts = [request for request in requests_of(view).values() if request.script is not None]
    wrong = asyncio.run(_refused(trial, list(dict.fromkeys(r.script for r in scripts if r.script is not None))))
    return tuple(
        _diagnostic(view.source(r.key), r.key, refused(r, wrong[r.script]), Severity.ERROR, "")
        for r in scripts
        if r.script is not None and r.script in wrong
    )


async def _refused(trial: Trial, scripts: Sequence[LuaServing]) -> dict[LuaServing, str]:
    """Those that are refused, found in halves, with the reason."""
    if not scripts:
        return {}
    try:
        reason = (await trial(scripts)).reason
    except (TrialUnavailableError, TrialFailedError, OSError):
        return {}
    if not reason or len(scripts) == 1:
        return {scripts[0]: reason} if reason else {}
    half = len(scripts) // 2
    return {**await _refused(trial, scripts[:half]), **await _refused(trial, scripts[half:])}


def _diagnostic(
    source: SourceMap | None, key: ResourceKey, problem: Problem, severity: Severity, hint: str
) -> Diagnostic:
    position = source.position(problem.path) if source is not None else None
    line, column = (position.line, position.column) if position is not None else (0, 0)
    text = source.line_text(line) if source is not None else ""
    in_script = _SCRIPT_LINE.match(problem.message) if problem.code == NO_LUA else None
    if source is not None and in_script and _BLOCK.search(text):  # the script begins on the line after its key
        line, column = line + int(in_script[1]), 1
        text = source.line_text(line)
    return Diagnostic(
        problem.code, severity, problem.message, resource=str(key), path=render_path(problem.path),
        file=source.file if source is not None else "", line=line, column=column, hint=hint, source_line=text,
    )  # fmt: skip
