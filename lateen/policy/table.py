"""The rules of one action as one question: which is the first that matches.

Rules become an expression each. Those that name exact peers (principals or namespaces) are found through an index, so that a request
meets only the rules that may concern its peer; the rest stand in one generated function, in order.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Final, cast

from lateen.policy.matching import Constants, all_of, any_of
from lateen.policy.request import CheckInput
from lateen.policy.rules import CompiledRule, Condition, rule_on_tcp

FirstMatch = Callable[[CheckInput], int]
_WORTH_AN_INDEX: Final = 8


@dataclass(frozen=True, slots=True)
class RuleTable:
    """The rules of one action in evaluation order, and the compiled question for HTTP and for TCP."""

    rules: tuple[CompiledRule, ...]
    http: FirstMatch
    tcp: FirstMatch

    def first(self, request: CheckInput) -> CompiledRule | None:
        """The first rule that matches."""
        if not self.rules:
            return None
        index = self.http(request) if request.http else self.tcp(request)
        return self.rules[index] if index >= 0 else None


def compile_table(rules: tuple[CompiledRule, ...], constants: Constants) -> RuleTable:
    """Compile the rules of one action, given in evaluation order."""

    @cache  # few workloads see TCP connections: compiled with the first one
    def tcp() -> FirstMatch:
        kept = [(i, on_tcp) for i, rule in enumerate(rules) if (on_tcp := rule_on_tcp(rule)) is not None]
        return _first_match(kept, constants)

    def tcp_first(request: CheckInput) -> int:
        return tcp()(request)

    return RuleTable(rules, _first_match(list(enumerate(rules)), constants), tcp_first)


def peer_keys(principal: str) -> tuple[str, ...]:
    """The keys under which rules about this peer are found: the identity itself, and `/ns/X` for each namespace in it."""
    parts = principal.split("/")
    namespaces = (f"/ns/{parts[i + 1]}" for i in range(1, len(parts) - 2) if parts[i] == "ns")
    return (principal, *dict.fromkeys(namespaces)) if principal else ()


_cached_peer_keys = lru_cache(maxsize=8192)(peer_keys)


def _anchors(rule: CompiledRule) -> frozenset[str] | None:
    """Keys one of which the peer must have for the rule to match; None when it may be anyone."""
    for group in rule.groups:
        found = [_anchor_of(alternative) for alternative in group]
        known = [keys for keys in found if keys is not None]
        if group and len(known) == len(found):
            return frozenset().union(*known)
    return None


def _anchor_of(alternative: Sequence[Condition]) -> frozenset[str] | None:
    return next((c.anchors for c in alternative if c.anchors is not None), None)


def _first_match(rules: Sequence[tuple[int, CompiledRule]], constants: Constants) -> FirstMatch:
    anchored = [(i, rule, keys) for i, rule in rules if (keys := _anchors(rule)) is not None]
    if len(anchored) < _WORTH_AN_INDEX:
        return _in_order(rules, constants)
    indexed = {i for i, _, _ in anchored}
    general = _in_order([(i, rule) for i, rule in rules if i not in indexed], constants)
    by_key: dict[str, list[int]] = {}
    for i, _, keys in anchored:
        for key in keys:
            by_key.setdefault(key, []).append(i)
    tests = _each([(i, rule) for i, rule, _ in anchored], constants)
    return _indexed(general, {key: [(i, tests[i]) for i in some] for key, some in by_key.items()})


def _indexed(
    general: FirstMatch, by_key: Mapping[str, Sequence[tuple[int, Callable[[CheckInput], bool]]]]
) -> FirstMatch:
    def first_match(request: CheckInput) -> int:
        best = general(request)
        for key in _cached_peer_keys(request.principal):
            for index, test in by_key.get(key, ()):
                if -1 < best < index:
                    break
                if test(request):
                    best = index
                    break
        return best

    return first_match


def _rule_code(rule: CompiledRule) -> str:
    groups = [
        any_of([all_of([c.code for c in alternative]) for alternative in group]) for group in rule.groups if group
    ]
    return all_of(groups)


# The generated text holds generated names and fixed operators only; see lateen.policy.matching.


def _in_order(rules: Sequence[tuple[int, CompiledRule]], constants: Constants) -> FirstMatch:
    lines = [f"    if {_rule_code(rule)}:\n        return {index}" for index, rule in rules]
    namespace: dict[str, object] = {}
    text = "\n".join(["def first_match(r):", *lines, "    return -1"])
    exec(compile(text, "<policy>", "exec"), constants.values, namespace)  # noqa: S102
    return cast("FirstMatch", namespace["first_match"])


def _each(rules: Sequence[tuple[int, CompiledRule]], constants: Constants) -> dict[int, Callable[[CheckInput], bool]]:
    entries = ",\n".join(f"{index}: lambda r: {_rule_code(rule)}" for index, rule in rules)
    tests = eval(compile(f"{{{entries}}}", "<policy>", "eval"), constants.values)  # noqa: S307
    return cast("dict[int, Callable[[CheckInput], bool]]", tests)
