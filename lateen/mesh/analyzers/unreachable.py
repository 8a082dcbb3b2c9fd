"""Rules of a VirtualService that no request can reach, because an earlier rule matches all that they match."""

from collections.abc import Mapping

from lateen.mesh.analyzers.report import Report
from lateen.mesh.diagnostics import Severity
from lateen.mesh.spec import StringMatch
from lateen.mesh.virtualservice import HTTPMatchRequest, L4MatchAttributes, TLSMatchAttributes, VirtualService

_MAX_COMPARED = 300
"""Earlier matches that each rule is compared with: more would take too long in a VirtualService of thousands of rules."""
_ALL = HTTPMatchRequest()
_ALL_TCP = L4MatchAttributes()
_ANYTHING = frozenset({".*", "/.*"})


def unreachable_rules(report: Report, service: VirtualService) -> None:
    """IST0130 for rules, IST0131 for single matches of rules that have others."""
    _http(report, service)
    seen_tcp: list[tuple[int, L4MatchAttributes]] = []
    for index, tcp in enumerate(service.spec.tcp):
        matches = tcp.match or (_ALL_TCP,)
        _report(report, service, "tcp", index, [_first_l4(seen_tcp, match) for match in matches])
        seen_tcp = (seen_tcp + [(index, match) for match in matches])[:_MAX_COMPARED]
    seen_tls: list[tuple[int, TLSMatchAttributes]] = []
    for index, tls in enumerate(service.spec.tls):
        _report(report, service, "tls", index, [_equal_tls(seen_tls, match) for match in tls.match])
        seen_tls = (seen_tls + [(index, match) for match in tls.match])[:_MAX_COMPARED]


def _http(report: Report, service: VirtualService) -> None:
    seen: list[tuple[int, HTTPMatchRequest]] = []
    for index, http in enumerate(service.spec.http):
        hidden: list[int | None] = []
        for match in http.match or (_ALL,):
            hidden.append(next((number for number, earlier in seen if hides(earlier, match)), None))
            if len(seen) < _MAX_COMPARED:
                seen.append((index, match))
        _report(report, service, "http", index, hidden)


def _report(report: Report, service: VirtualService, kind: str, index: int, hidden: list[int | None]) -> None:
    """`hidden`: for each match of rule `index`, the rule that already matches everything it matches."""
    found = [number for number in hidden if number is not None]
    if not found:
        return
    earlier = ", ".join(str(number + 1) for number in sorted(set(found)))
    if len(found) == len(hidden) and any(number != index for number in found):
        message = f"rule {index + 1} is never used: rule {earlier} before it matches the same requests"
        hint = "move it before that rule, or remove it"
        report.add("IST0130", Severity.WARNING, service, ("spec", kind, index), message, hint)
        return
    for position, number in enumerate(hidden):
        if number is not None:
            message = f"this match has no effect: rule {number + 1} already matches the same requests"
            report.add("IST0131", Severity.INFO, service, ("spec", kind, index, "match", position), message)


def hides(earlier: HTTPMatchRequest, later: HTTPMatchRequest) -> bool:
    """Whether every request that `later` matches is one that `earlier` matches too (false when in doubt)."""
    return (
        _path_hides(earlier, later)
        and all(_hides(getattr(earlier, name), getattr(later, name)) for name in ("scheme", "method", "authority"))
        and _subset(earlier.headers, later.headers)
        and _subset(earlier.without_headers, later.without_headers)
        and _subset(earlier.query_params, later.query_params)
        and earlier.port in {None, later.port}
        and _subset(earlier.source_labels, later.source_labels)
        and earlier.source_namespace in {None, later.source_namespace}
        and (
            earlier.gateways == later.gateways or bool(later.gateways and set(later.gateways) <= set(earlier.gateways))
        )
    )


def _path_hides(earlier: HTTPMatchRequest, later: HTTPMatchRequest) -> bool:
    ours, theirs = earlier.uri, later.uri
    if ours is None or ours.regex in _ANYTHING or ours.prefix == "/" or not ours.model_fields_set:
        return True
    if theirs is None:
        return False
    if ours == theirs:
        return earlier.ignore_uri_case or not later.ignore_uri_case
    if ours.prefix is None or (later.ignore_uri_case and not earlier.ignore_uri_case):
        return False
    text = theirs.exact if theirs.exact is not None else theirs.prefix
    if text is None:
        return False
    return text.lower().startswith(ours.prefix.lower()) if earlier.ignore_uri_case else text.startswith(ours.prefix)


def _hides(ours: StringMatch | None, theirs: StringMatch | None) -> bool:
    return ours is None or ours == theirs


def _subset(ours: Mapping[str, object], theirs: Mapping[str, object]) -> bool:
    return all(theirs.get(name) == value for name, value in ours.items())


def _first_l4(seen: list[tuple[int, L4MatchAttributes]], later: L4MatchAttributes) -> int | None:
    return next((number for number, earlier in seen if earlier in (_ALL_TCP, later)), None)


def _equal_tls(seen: list[tuple[int, TLSMatchAttributes]], later: TLSMatchAttributes) -> int | None:
    return next((number for number, earlier in seen if earlier == later), None)
