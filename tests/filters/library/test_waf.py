"""waf: what it finds, and what it must not."""

import json

import pytest

from filters.library.waf import Waf, content_kind
from filters.library.waf_input import (
    BLOCK_COMMENT,
    COMMENT,
    PIECE,
    MalformedBodyError,
    body_values,
    cookie_values,
    decoded,
    form_parts,
    json_strings,
    pieces,
    readings,
    without_comments,
)
from filters.library.waf_rules import RULES
from lateen_filter import ConfigError
from lateen_filter.testing import Answer, FilterHostFactory

AGENT = {"user-agent": "tests"}

ATTACKS = {
    "sqli-union": ["1 UNION/**/SELECT password FROM users", "-1 union all select 1,2,3", "1/*!50000UNION*/ /*!50000SELECT*/ 1", "1%0aunion%0aselect 1", "union(select(1))", "1 union--x\nselect 1", "1 union #x\n select 1", "1 union /*#*/ all--/*\nselect 1", "1/*x*/union/*!select*/1"],
    "sqli-tautology": ["1' OR '1'='1", "1 or 1=1", "1%27%20or%201%3D1", "' or ''='", '" or ""="', "1 AND 1=2", "' || '1'='1", "1) or (1=1", "x' or true", "' or 'x' like 'x", "' or x is null or '", "' or 1 in (1)"],
    "sqli-comment": ["admin'--", "admin' #", "admin') -- "],
    "sqli-stacked": ["1; DROP TABLE users", "'; exec xp_cmdshell('dir')", "1;delete from users", "x; update users set a=1"],
    "sqli-select": ["select * from users", "(select 1 from dual)", "1' AND (SELECT 1)", "1 and ( select pass from users) > 'a'", "select name, pass from users", "select a from b where c"],
    "sqli-function": ["1 and sleep(5)", "1 waitfor delay '0:0:5'", "benchmark(1000,md5(1))", "x from information_schema.tables", "extractvalue(1,2)"],
    "xss-script": ["<script>alert(1)</script>", "%3Cscript%3E", "<ScRiPt src=x>", "%253Cscript%253E", "%u003cscript%u003e", "\uff1cscript\uff1e", "</script>", "&lt;script&gt;", "<\nscript>", "/*<script>*/", "#<script>\n", "--<script>\n"],
    "xss-tag": ["<iframe src=x>", "<svg/onload=x>", "<object data=x>", "<base href=//x>"],
    "xss-handler": ["<img src=x onerror=alert(1)>", "' onfocus=alert(1) x='", "<a/onmouseover=x>", '" onclick = x', "<video oncanplay=x>", "<form x=1 onformdata=x>"],
    "xss-scheme": ["javascript:alert(1)", "java%0ascript:alert(1)", "&#x6a;avascript:x", '<a href="javascript:x">', "vbscript:msgbox", "data:text/html;base64,x"],
    "traversal-dots": ["../../etc/x", "..%2f..%2fx", "%2e%2e/%2e%2e/", "....//....//x/../", "..\\..\\x", "%252e%252e%252f", "/a/..", "x=../y"],
    "traversal-files": ["/etc/passwd", "c:\\windows\\win.ini", "/proc/self/environ", "/.git/config", "/.env", "%2fetc%2fshadow"],
    "traversal-scheme": ["php://filter/read=x", "file:///x", "gopher://x"],
    "rce-jndi": ["${jndi:ldap://x/a}", "${${lower:j}ndi:x}", "${::-j}"],
}  # fmt: skip
HARMLESS_TEXTS = [
    "hello world", "O'Brien", "it's fine; really", "salt and pepper", "select a plan from our site", "Please select one from the list",
    "the union selected a leader", "European Union: select countries", "drop me a line", "JavaScript: The Good Parts", "1 or 2 people", "rock & roll", "a=b", "x > 3 and y < 4",
    "2024-01-01T00:00:00+01:00", "price: $5.00", "user@example.com", "https://example.com/a?b=c&d=e#f", "...and then", "wait..", "<3 love", "I <b>love</b> it", "on sale = yes",
    "script", "order by phone", "YmFzZTY0PT0=", "alert: fire", "update your account", "insert coin; delete later", "and/or how", "*/*", "foo;bar=1", "file name.txt", "#hashtag",
    "'single quoted'", '{"a":1}', "sleep (really)", "50% off", "1-2-3", "--help", "R&D", "tom's \"big\" idea", "Mozilla/5.0 (X11; Linux x86_64; rv:1.0) Gecko/20100101 Firefox/130.0",
    "the environment (env) files", "C++ > Java", "section 4.1..4.3", "naïve façade", "日本語", "👍", "a/b/c", "image/svg+xml", "meta data", "base 64", "style guide", "Math 101", "once upon",
    "'tea' or coffee is fine", "'a' and b like c", "the 'x' or y between us", "conditions = good", "phone: +49 (30) 1234-567", "?why", "${price}", "100%", "%zz", "null", "true and false", "not 1 but 2",
]  # fmt: skip


def _found(text: str) -> dict[str, int]:
    """Rules that match, with their scores."""
    found = list(readings(decoded(text)))
    return {each.id: each.score for each in RULES if any(each.search(reading) for reading in found)}


@pytest.mark.parametrize(("rule", "text"), [(rule, text) for rule, texts in ATTACKS.items() for text in texts])
def test_attacks_are_found(rule: str, text: str) -> None:
    found = _found(text)
    assert rule in found
    assert sum(found.values()) >= 5


@pytest.mark.parametrize("text", [*(text for texts in ATTACKS.values() for text in texts), *HARMLESS_TEXTS])
def test_what_is_looked_for_first_is_in_every_match(text: str) -> None:
    for rule in RULES:
        for reading in readings(decoded(text)):
            assert bool(rule.search(reading)) is bool(rule.pattern.search(reading))


@pytest.mark.parametrize("text", HARMLESS_TEXTS)
def test_ordinary_texts_are_not(text: str) -> None:
    assert sum(score for rule, score in _found(text).items() if rule != "scanner-agent") < 5


def test_every_rule_has_an_attack() -> None:
    warnings = {"sqli-quote", "xss-code", "xss-call"}
    assert {each.id for each in RULES} == ATTACKS.keys() | warnings | {"scanner-agent"}
    for text in ("document.cookie", "window['location']"):
        assert list(_found(text)) == ["xss-code"]
    assert list(_found("prompt`x`")) == ["xss-call"]
    assert list(_found('"a" -- b')) == ["sqli-quote"]


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("%41", "A"),
        ("%2541", "A"),
        ("%252541", "A"),
        ("%25252541", "%41"),
        ("%u0041", "A"),
        ("%ud800", "\ufffd"),
        ("%c3%bc", "ü"),
        ("%c3", "\udcc3"),
        ("%4", "%4"),
        ("%zz", "%zz"),
        ("%", "%"),
        ("\uff21\uff5e\u3000", "A~ "),
    ],
)
def test_decoding(text: str, result: str) -> None:
    assert decoded(text) == result


def test_normalizing() -> None:
    assert list(readings("A\t\n\x00B &lt;&#60;&#x3C; &bogus; &#9999999;&#xd800;")) == ["a b <<< &bogus; "]
    assert list(readings("a/*b*/c")) == ["a/*b*/c", "a c"]
    assert list(readings("a # /*b*/\nc")) == ["a # /*b*/ c", "a # c", "a c"]
    assert without_comments("a/**/b/* x */c/*!123 d*/e/*f", BLOCK_COMMENT) == "a  b  c  d e/*f"
    assert without_comments("a--b\nc#/*\nd/*--*/e--f", COMMENT) == "a  \nc  \nd  e--f"


def test_values_of_bodies() -> None:
    assert set(json_strings('{"a": ["b", {"c": 1}], "d": "e"}')) == {"a", "b", "c", "1", "d", "e"}
    assert [value.text for value in body_values("application/x-www-form-urlencoded", b"a=1+2&b=%3Cx")] == [
        "1 2",
        "%3Cx",
    ]
    long = "x" * 10_000
    assert [value.text for value in body_values("text/plain", long.encode())] == [long]
    assert [value.text for value in body_values("text/plain", b' {"a": "\\u003c"}')] == [' {"a": "\\u003c"}', "<", "a"]
    parts = list(pieces("".join(chr(32 + place % 90) for place in range(10_000))))
    assert max(map(len, parts)) == PIECE
    assert parts[0][-256:] == parts[1][:256]
    assert list(pieces("x" * (PIECE + 1)))[1:] == ["x" * 257]
    assert set(json_strings('{"q": "first", "q": "second"}')) == {"q", "first", "second"}
    assert [value.text for value in cookie_values("a=1; a=2; <x; b=")] == ["1", "2", "<x"]
    form = '--X\r\ncontent-disposition: form-data; name="a"\r\n\r\n1\r\n--X\r\nA: b; filename="f"\r\n\r\n2\r\n--X--'
    values = list(form_parts(form, "X"))
    assert "1\r\n" in values
    assert "2\r\n" not in values
    assert any('filename="f"' in value for value in values)
    assert list(form_parts(form, "")) == [form]
    for bad in ("{", "[" * 100_000, json.dumps(["a"] * 5001)):
        with pytest.raises(MalformedBodyError):
            list(json_strings(bad))


@pytest.mark.parametrize(
    ("header", "kind"),
    [
        ("application/json; charset=utf-8", "application/json"),
        ("Text/Plain", "text/plain"),
        ("application/ld+json", "application/ld+json"),
        ("multipart/form-data; boundary=x", None),
        ("application/octet-stream", None),
        ("", None),
        ("image/png, application/json", "application/json"),
    ],
)
def test_kinds_of_bodies(header: str, kind: str | None) -> None:
    assert content_kind(header) == kind
    assert content_kind("multipart/form-data; boundary=x", multipart=True) == "multipart/form-data"


def _refused(answer: Answer) -> bool:
    assert answer.status in (200, 403)
    return answer.status == 403


def test_requests(either_host: FilterHostFactory) -> None:
    config = {
        "exclusions": [{"paths": ["/cms"], "rules": ["xss"], "targets": ["body"]}, {"targets": ["arg:code"]}],
        "rules": {"scanner-no-agent": "off", "traversal-scheme": "log"},
        "customRules": [{"id": "shop-coupon", "pattern": "\\bfreebie\\b", "on": ["arg"]}],
        "longestBody": 20_000,
        "mostParameters": 20,
    }
    host = either_host(Waf, config)

    def get(path: str, **headers: str) -> bool:
        return _refused(
            host.request(
                path=path, headers={**AGENT, **{name.replace("_", "-"): value for name, value in headers.items()}}
            )
        )

    def post(body: bytes, kind: str, path: str = "/") -> bool:
        return _refused(host.request("POST", path, headers={**AGENT, "content-type": kind}, body=body))

    assert not get("/shop/42?q=hello+world&tags=a,b")
    assert not host.logs
    refused = host.request(path="/search?q=1%27+or+%271%27%3D%271&x=1", headers={**AGENT, "x-request-id": "r-1"})
    assert (refused.status, refused.json()) == (403, {"error": "the request was refused"})
    line = json.loads(host.logs[-1])
    assert (line["waf"], line["score"], line["path"]) == ("refused", 5, "/search")
    assert line["found"] == [{"rule": "sqli-tautology", "target": "arg:q"}]
    assert get("/?%3Cscript%3E=1")
    assert get("/x/%252e%252e%252fy")
    assert get("/", cookie="a=1; b=<script>")
    assert get("/", referer="https://x/?q=<script>")
    assert not get("/", authorization="<script>")
    assert get("/", user_agent="sqlmap/1.7")
    assert not _refused(host.request())
    assert get("/?" + "&".join(f"a{number}=1" for number in range(21)))
    assert not get("/?" + "&".join(f"a{number}=1" for number in range(20)))
    assert get("/?q=" + "x" * 4097)
    assert not get("/?q=" + "x" * 4096)
    assert get("/?q=" + "x" * 9000)
    assert get("/", x_long="x" * 9000)
    assert get("/?q=a%00b")
    assert get("/?q=freebie")
    assert not get("/?q=freebies")
    assert not get("/?code=<script>&q=a".replace("<", "%3C"))
    assert not get("/?u=php://x")
    assert json.loads(host.logs[-1])["waf"] == "passed"
    assert post(b'{"a": {"b": ["<script>"]}}', "application/json")
    assert post(b'{"a": "\\u003cscript>"}', "application/json")
    assert post(b'{"a": ', "application/json")
    assert post(b"[" * 9_000, "application/json")
    assert post(b"q=%3Cscript%3E", "application/x-www-form-urlencoded")
    assert post(b"x" * 10_000 + b"<script>", "text/plain")
    assert post(b"x" * 20_001, "text/plain")
    assert not post(b"x" * 20_000, "text/plain")
    assert not post(b"<script>", "application/octet-stream")
    assert not post(b"<script>", "text/html", "/cms/page")
    assert post(b"1 union select 2", "text/html", "/cms/page")
    assert post(b"<script>", "text/html", "/cmsx")
    assert not post(b"", "application/json")
    passed = host.request("POST", "/", headers={**AGENT, "content-type": "application/json"}, body=b'{"a": "b"}')
    assert passed.upstream_request is not None
    assert passed.upstream_request.body == b'{"a": "b"}'
    assert host.metrics["waf_blocked"] > 15


SCRIPT = "%3Cscript%3E"


def test_nothing_is_left_unread(either_host: FilterHostFactory) -> None:
    """Ways around it: after what it looks at, beside it, in another shape of the same."""
    host = either_host(Waf, {"threshold": 10, "inspectMultipart": True, "longestBody": 30_000, "rules": {"xss": "log"}})
    blocking = either_host(Waf, {"inspectMultipart": True, "longestBody": 30_000})
    far = "x" * 5000

    def post(body: bytes, kind: str | None, **headers: str) -> bool:
        given = {} if kind is None else {"content-type": kind}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        return _refused(blocking.request("POST", "/", headers={**AGENT, **given}, body=body))

    for path, headers in (
        (f"/{far}/..%2f..%2fx", {}),
        ("/", {"referer": f"https://x/?q={far}<script>"}),
        ("/", {"user-agent": f"{far} sqlmap"}),
        ("/items/1%27%20or%20%271%27=%271", {}),
        ("/", {"cookie": "a=1; a=<script>"}),
        ("/", {"cookie": "<script>"}),
        (f"/?q=/*{SCRIPT}*/", {}),
    ):
        assert _refused(blocking.request(path=path, headers={**AGENT, **headers})), (path, headers)
    form = 'X\r\ncontent-disposition: form-data; name="{}"\r\n\r\n{}\r\n--X--\r\n'
    for body, kind in (
        (b"x" * 3836 + b" union" + b" " * 300 + b"select 1", "text/plain"),
        (b"x" * 3000 + b" union/*" + b"x" * 3000 + b"*/select 1", "text/plain"),
        (b'{"q": "<script>", "q": "x"}', "application/json"),
        (b'{"q": "\\u003cscript>"}', "text/plain"),
        (b'{"q": "\\u003cscript>"}', None),
        (b"<script>", "image/png, text/plain"),
        (b"q=x", "application/x-www-form-urlencoded; charset=ibm037"),
        (("--" + form.format("a", "<script>")).encode(), "multipart/form-data; boundary=X"),
        (("--" + form.format("<script>", "a")).encode(), 'multipart/form-data; boundary="X"'),
    ):
        assert post(body, kind), (body, kind)
    assert post(b"\x1f\x8b", "application/json", content_encoding="gzip")
    assert not post(b"\x89PNG <script>", "image/png")
    assert not post(("--" + form.format('a"; filename="b', "<script>")).encode(), "multipart/form-data; boundary=X")
    assert not post(("--" + form.format("a", "O'Brien, 1 or 2")).encode(), "multipart/form-data; boundary=X")
    # What is not read counts whatever the threshold, and findings that score nothing hide none that do.
    assert _refused(host.request(path=f"/?q={far}{far}", headers=AGENT))
    assert _refused(host.request("POST", "/", headers={**AGENT, "content-type": "text/plain"}, body=b"x" * 30_001))
    noise = "&".join(f"a{number}={SCRIPT}" for number in range(60))
    attacks = "b=1%20union%20select%202&c=1%20union%20select%202"
    assert _refused(host.request(path=f"/?{noise}&{attacks}", headers=AGENT))
    assert not _refused(host.request(path=f"/?{noise}", headers=AGENT))
    assert len(json.loads(host.logs[-1])["found"]) == 50


def test_limits_that_are_off_are_read_all_the_same(filter_host: FilterHostFactory) -> None:
    host = filter_host(Waf, {"rules": {"size": "off", "body-malformed": "log"}, "longestBody": 1000})
    headers = {**AGENT, "content-type": "application/json"}
    assert host.request(path=f"/?q={'x' * 9000}", headers=AGENT).status == 200
    assert host.request(path=f"/?q={'x' * 9000}{SCRIPT}", headers=AGENT).status == 403
    assert host.request(path="/?" + "&".join(["a=1"] * 300 + [f"b={SCRIPT}"]), headers=AGENT).status == 403
    assert host.request("POST", headers=headers, body=b'{"a": <script>').status == 403
    assert host.request("POST", headers=headers, body=b'{"a": <b>').status == 200
    assert host.request("POST", headers=headers, body=b'["<script>", "' + b"x" * 2000 + b'"]').status == 403


def test_only_logging(filter_host: FilterHostFactory) -> None:
    host = filter_host(Waf, {"mode": "log", "logValues": True})
    assert host.request(path="/?q=%3Cscript%3E", headers=AGENT).status == 200
    line = json.loads(host.logs[-1])
    assert (line["waf"], line["score"]) == ("passed", 5)
    assert line["found"] == [{"rule": "xss-script", "target": "arg:q", "value": "<script"}]
    assert host.metrics["waf_reported"] == 1


def test_scores_add_up_to_the_threshold(filter_host: FilterHostFactory) -> None:
    path = "/?a=document.cookie&b=prompt(1)"
    assert filter_host(Waf, {"threshold": 6}).request(path=path, headers=AGENT).status == 403
    assert filter_host(Waf, {"threshold": 7}).request(path=path, headers=AGENT).status == 200
    assert filter_host(Waf, {"threshold": 7}).request(path=path).status == 403
    assert filter_host(Waf, {"threshold": 6, "rules": {"xss": "off"}}).request(path=path, headers=AGENT).status == 200
    assert (
        filter_host(Waf, {"threshold": 3, "rules": {"xss": "off", "xss-code": "block"}})
        .request(path=path, headers=AGENT)
        .status
        == 403
    )


def test_hostile_input_is_answered(filter_host: FilterHostFactory) -> None:
    host = filter_host(Waf, {})
    for path in (
        "/?" + "&" * 8000,
        "/?" + "%" * 8000,
        "/?a=" + "/*" * 2000,
        "/?a=" + "&%23" * 500,
        "/" + "../" * 2000,
        "/?a=" + "%25" * 1300 + "41",
    ):
        assert host.request(path=path, headers=AGENT).status in (200, 403)
    assert host.request(headers={**AGENT, "cookie": "=;" * 4000}).status == 200
    assert host.request(path="/?a=" + "/*" * 2000 + "%0a--", headers=AGENT).status in (200, 403)
    assert host.request(headers={**AGENT, "referer": "\udcff\udcfe"}).status == 200
    assert not host.request(path="/cms/..%2fshop?q=1", headers=AGENT).upstream_request
    assert host.request(headers=[("user-agent", "x"), *((f"x-h{number}", "1") for number in range(120))]).status == 403


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"rules": {"sqli-unknown": "off"}}, "no such rule: sqli-unknown"),
        ({"exclusions": [{"rules": ["nope"]}]}, "no such rule"),
        ({"exclusions": [{}]}, "everything"),
        ({"customRules": [{"id": "x-y", "pattern": "(a+)+b"}]}, "may take"),
        ({"customRules": [{"id": "sqli-union", "pattern": "a"}]}, "another rule"),
        ({"customRules": [{"id": "Bad", "pattern": "a"}]}, "group-name"),
        ({"customRules": [{"id": "a-b", "pattern": "a"}, {"id": "a-b", "pattern": "b"}]}, "of its own"),
        ({"threshold": 0}, "threshold"),
        ({"longestValue": 5000}, "longestValue"),
        ({"mostHeaders": 0}, "mostHeaders is 0"),
        ({"headers": ["a b"]}, "headers: 'a b'"),
        ({"exclusions": [{"paths": ["cms"]}]}, "paths: 'cms'"),
    ],
)
def test_bad_configurations(filter_host: FilterHostFactory, config: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        filter_host(Waf, config)
