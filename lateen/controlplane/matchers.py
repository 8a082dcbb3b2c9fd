"""Istio's StringMatch and Gateway API's typed matches as Envoy string, header and query matchers."""

from __future__ import annotations

from lateen.controlplane.findings import TranslationError
from lateen.controlplane.regexes import regex_error
from lateen.envoyapi.envoy.config.route.v3 import route_components_pb2 as rc
from lateen.envoyapi.envoy.type.matcher.v3 import regex_pb2, string_pb2
from lateen.mesh.spec import StringMatch

__all__ = ["exact", "header", "presence_header", "query", "regex", "string"]


def regex(pattern: str) -> regex_pb2.RegexMatcher:
    """A full match by RE2; TranslationError when Envoy would refuse it."""
    error = regex_error(pattern)
    if error:
        raise TranslationError(error)
    return regex_pb2.RegexMatcher(regex=pattern)


def exact(value: str) -> string_pb2.StringMatcher:
    """Equality."""
    return string_pb2.StringMatcher(exact=value)


def string(match: StringMatch) -> string_pb2.StringMatcher | None:
    """None for the empty matcher, which means presence."""
    if match.exact is not None:
        return exact(match.exact)
    if match.prefix is not None:
        return string_pb2.StringMatcher(prefix=match.prefix)
    if match.regex is not None:
        return string_pb2.StringMatcher(safe_regex=regex(match.regex))
    return None


def presence_header(name: str, *, absent: bool = False) -> rc.HeaderMatcher:
    """The header is there, or is not."""
    return rc.HeaderMatcher(name=name, present_match=True, invert_match=absent)


def header(name: str, match: StringMatch, *, without: bool = False) -> rc.HeaderMatcher:
    """One of `headers` or, with `without`, of `withoutHeaders`: there a missing header counts as not matched."""
    if match.prefix == "" or match.regex in {".*", "*"}:  # every value, so presence is what is asked
        return presence_header(name, absent=without)
    matcher = string(match)
    if matcher is None:
        return presence_header(name, absent=without)
    return rc.HeaderMatcher(
        name=name, string_match=matcher, invert_match=without, treat_missing_header_as_empty=without
    )


def query(name: str, match: StringMatch) -> rc.QueryParameterMatcher:
    """One query parameter; the empty matcher asks for its presence."""
    matcher = string(match)
    if matcher is None:
        return rc.QueryParameterMatcher(name=name, present_match=True)
    return rc.QueryParameterMatcher(name=name, string_match=matcher)
