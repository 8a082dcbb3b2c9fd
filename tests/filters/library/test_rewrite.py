"""rewrite, and the templates it shares with the access log."""

import re

import pytest

from filters.library.rewrite import PrefixRewrite, RegexRewrite, Rewrite, Rule, clean, replace_prefix, rewritten
from filters.library.templates import parse_template
from lateen_filter import ConfigError, Response
from lateen_filter.testing import FilterHostFactory

KNOWN = {"path": False, "header": True}


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        ("", ""),
        ("plain", "plain"),
        ("{path}", "<path>"),
        ("a{path}b{header:x-user}c", "a<path>b<header:x-user>c"),
        ("{header:none|nobody}", "nobody"),
        ("{header:none}", ""),
        ("{header:none|}", ""),
        ("{{path}}", "{path}"),
        ("{{{path}}}", "{<path>}"),
        ("{{", "{"),
    ],
)
def test_templates(text: str, rendered: str) -> None:
    template = parse_template(text, KNOWN)
    assert (
        template.render(lambda name, argument: None if argument == "none" else f"<{name}{argument and ':'}{argument}>")
        == rendered
    )


@pytest.mark.parametrize(
    "text", ["{nope}", "{path", "path}", "{}", "{header}", "{path:x}", "{Path}", "{path|{header:x}}", "x" * 5000]
)
def test_bad_templates(text: str) -> None:
    with pytest.raises(ValueError, match=r"variable|argument|longer"):
        parse_template(text, KNOWN)


@pytest.mark.parametrize(
    ("path", "prefix", "replacement", "result"),
    [
        ("/api/x", "/api", "/v2", "/v2/x"),
        ("/api", "/api", "/v2", "/v2"),
        ("/api/", "/api", "/v2", "/v2/"),
        ("/apix", "/api", "/v2", "/apix"),
        ("/x/api/y", "/api", "/v2", "/x/api/y"),
        ("/api/x", "/api", "/", "/x"),
        ("/api", "/api", "/", "/"),
        ("/api/x", "/api/", "/v2/", "/v2/x"),
        ("/x", "/", "/v2", "/v2/x"),
        ("/", "/", "/v2", "/v2"),
        ("/api//evil.com/x", "/api", "/", "/evil.com/x"),
        ("//evil.com", "/", "/", "/evil.com"),
        ("/api//x", "/api", "/v2", "/v2//x"),
    ],
)
def test_prefixes(path: str, prefix: str, replacement: str, result: str) -> None:
    assert replace_prefix(path, prefix, replacement) == result


@pytest.mark.parametrize(
    ("path", "pattern", "replacement", "result"),
    [
        ("/users/42/posts", r"/users/(\d+)", r"/u/\1", "/u/42/posts"),
        ("/users/x/posts", r"/users/(\d+)", r"/u/\1", "/users/x/posts"),
        ("/a-b-c", "-", "/", "/a/b/c"),
        ("/a", "^/", "", None),
        ("/a/b", "a/", "../", None),
        ("/a/%2xe%2xE/b", "x", "", None),
        ("/a/.%2xe%2xfb", "x", "", None),
        ("/ax..;/b", "x", "/", None),
        ("/a/..b/c..", "c", "d", "/a/..b/d.."),
        ("/a/b", "a", "a?x=1", None),
        ("/a/b", "a", "a b", None),
        ("/a/b", "a", "a#", None),
        ("/a/b", "a", "a..b", "/a..b/b"),
    ],
)
def test_regular_expressions(path: str, pattern: str, replacement: str, result: str | None) -> None:
    rule = Rule(rewrite_regex=RegexRewrite(pattern=re.compile(pattern), replacement=replacement))
    assert rewritten(path, rule) == result


def test_both_rewrites_one_after_the_other() -> None:
    rule = Rule(
        rewrite_prefix=PrefixRewrite(prefix="/a", replacement="/b"),
        rewrite_regex=RegexRewrite(pattern=re.compile("^/b"), replacement="/c"),
    )
    assert rewritten("/a/x", rule) == "/c/x"


def test_a_path_is_never_cut() -> None:
    long = "/" + "a" * 3000
    assert rewritten(long, Rule(rewrite_regex=RegexRewrite(pattern=re.compile("a"), replacement="b"))) == long


def test_values_are_clean_and_bounded() -> None:
    assert clean("a\r\nx-evil: 1\0") == "ax-evil: 1"
    assert len(clean("x" * 65536)) == 8192


RULES = [
    {
        "request": [
            {"action": "remove", "name": "x-internal"},
            {"action": "set", "name": "x-who", "value": "{header:x-user|nobody} from {parameter:city}"},
            {"action": "default", "name": "x-tenant", "value": "none"},
            {"action": "add", "name": "x-list", "value": "b"},
            {"action": "rename", "name": "x-old", "to": "x-new"},
        ]
    },
    {
        "pathRegex": "/users/(?P<user>[0-9]+)(/.*)?",
        "methods": ["GET"],
        "request": [{"action": "set", "name": "x-user-id", "value": "{group:user}"}],
        "response": [
            {"action": "set", "name": "x-seen", "value": "{group:1} {path}"},
            {"action": "remove", "name": "server-timing"},
        ],
        "rewritePrefix": {"prefix": "/users", "replacement": "/v2/people"},
        "stop": True,
    },
    {"paths": ["/users"], "request": [{"action": "set", "name": "x-late", "value": "1"}]},
    {
        "headers": {"x-debug": "1|true"},
        "authority": "debug.example.com",
        "rewriteRegex": {"pattern": "//+", "replacement": "/"},
    },
    {"paths": ["/bad"], "rewriteRegex": {"pattern": "/bad", "replacement": ""}},
    {"paths": ["/tenant"], "authority": "{header:x-tenant}.example.com"},
    {"paths": ["/grow"], "rewriteRegex": {"pattern": "g", "replacement": "gggggggggg"}},
    {"paths": ["/ggg*"], "rewriteRegex": {"pattern": "w+", "replacement": "x"}},
]


def test_rules(either_host: FilterHostFactory) -> None:
    host = either_host(Rewrite, {"rules": RULES}, upstream=lambda _: Response(200, "ok", {"server-timing": "db;dur=1"}))
    answer = host.request(
        path="/users/42/posts?city=Bern%0d%0ax-evil:1",
        headers=[
            ("x-internal", "1"),
            ("x-user", "bob"),
            ("x-list", "a"),
            ("x-old", "1"),
            ("x-old", "2"),
            ("x-new", "0"),
        ],
    )
    seen = answer.upstream_request
    assert seen is not None
    assert seen.path == "/v2/people/42/posts?city=Bern%0d%0ax-evil:1"
    headers = seen.headers
    assert "x-internal" not in headers
    assert headers["x-who"] == "bob from Bernx-evil:1"
    assert headers["x-tenant"] == "none"
    assert headers.get_all("x-list") == ["a", "b"]
    assert (headers.get("x-old"), headers.get_all("x-new")) == (None, ["1", "2"])
    assert headers["x-user-id"] == "42"
    assert "x-late" not in headers
    assert answer.headers["x-seen"] == "42 /users/42/posts"
    assert "server-timing" not in answer.headers
    posted = host.request("POST", "/users/42", headers={"x-tenant": "acme"})
    assert posted.upstream_request is not None
    assert posted.upstream_request.path == "/users/42"
    assert posted.upstream_request.headers["x-tenant"] == "acme"
    assert posted.upstream_request.headers["x-late"] == "1"
    assert "x-user-id" not in posted.upstream_request.headers
    assert "x-seen" not in posted.headers
    debug = host.request(path="/a//b", headers={"x-debug": "true"}).upstream_request
    assert debug is not None
    assert (debug.path, debug.authority) == ("/a/b", "debug.example.com")
    plain = host.request(path="/a//b", headers={"x-debug": "truer"}).upstream_request
    assert plain is not None
    assert plain.path == "/a//b"
    assert host.request(path="/bad").status == 400
    tenant = host.request(path="/tenant", headers={"x-tenant": "acme"}).upstream_request
    assert tenant is not None
    assert tenant.authority == "acme.example.com"
    for evil in ("evil.com/", "evil.com?", "a@evil.com#", "a b", "evil.com:80", "gr\u00fcn", "evil.com\\"):
        assert host.request(path="/tenant", headers={"x-tenant": evil}).status == 400, evil
    grown = host.request(path="/grow/" + "g" * 50).upstream_request
    assert grown is not None
    assert grown.path == f"/{'g' * 10}rox/{'g' * 500}"
    assert host.request(path="/grow/" + "g" * 300).status == 414
    assert host.request(path="/" + "x" * 3000).status == 414
    assert host.request(path="/a?" + "x" * 3000).status == 200
    assert host.request(headers={"x-user": "x" * 50_000}).status == 200
    assert host.request(headers={"x-user": "\udcff"}).status == 200


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ({"request": [{"action": "set", "name": ":path", "value": "x"}]}, "no header name"),
        ({"request": [{"action": "set", "name": "Content-Length", "value": "1"}]}, "cannot be changed here"),
        ({"request": [{"action": "set", "name": "a b"}]}, "no header name"),
        ({"request": [{"action": "rename", "name": "a"}]}, "no header name|rename needs"),
        ({"request": [{"action": "set", "name": "a", "to": "b"}]}, "belongs to rename"),
        ({"request": [{"action": "remove", "name": "a", "value": "b"}]}, "takes no value"),
        ({"request": [{"action": "set", "name": "a", "value": "{status}"}]}, "no such variable"),
        ({"pathRegex": "(a+)+"}, "may take"),
        ({"headers": {"x": "(a|a)*b"}}, "may take"),
        ({"rewriteRegex": {"pattern": "a", "replacement": "\\1"}}, "replacement"),
        ({"rewritePrefix": {"prefix": "api", "replacement": "/"}}, "no path"),
        ({"rewritePrefix": {"prefix": "/a*/b", "replacement": "/"}}, "prefix: "),
        ({"paths": ["api"]}, "paths: 'api' is no path"),
        ({"methods": ["get"]}, "methods: 'get' is no method"),
        ({"headers": {"a b": "x"}}, "headers: 'a b'"),
        ({"request": [{"action": "set", "name": "a", "value": "{header:x y}"}]}, "'x y' is no header name"),
        ({"authority": "{group:1}"}, "no group of pathRegex"),
        ({"pathRegex": "/(a)", "request": [{"action": "set", "name": "a", "value": "{group:2}"}]}, "{group:2}"),
        ({"pathRegex": "/(?P<x>a)", "response": [{"action": "set", "name": "a", "value": "{group:y}"}]}, "{group:y}"),
        ({"rewritePrefix": {"prefix": "/a", "replacement": "/a?b"}}, "no path"),
    ],
)
def test_bad_rules(filter_host: FilterHostFactory, rule: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        filter_host(Rewrite, {"rules": [rule]})


def test_no_rules(filter_host: FilterHostFactory) -> None:
    with pytest.raises(ConfigError, match="0 rules"):
        filter_host(Rewrite, {"rules": []})
