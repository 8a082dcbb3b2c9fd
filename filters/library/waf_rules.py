"""The rules of the filter `waf`. Every repeat in a pattern is bounded, so each takes time linear in what it is given.

Patterns see a value in lower case, decoded, with SQL's comments and runs of white space as one space (see waf_input).
"""

import re
from typing import NamedTuple

CRITICAL, WARNING, NOTICE = 5, 3, 2
VALUES = frozenset({"arg", "cookie", "header", "body", "path"})
KINDS = frozenset({"arg", "cookie", "body", "header", "uri", "path", "agent"})
INPUT = frozenset({"arg", "cookie", "body", "header", "uri"})
"""uri: a path that is not plain."""


class Rule(NamedTuple):
    """A pattern and what it is worth."""

    id: str
    group: str
    score: int
    pattern: "re.Pattern[str]"
    on: frozenset[str]
    """Kinds of values it looks at."""
    needs: tuple[str, ...] = ()
    """Texts of which every match holds one: they are looked for first, because that is much faster."""

    def search(self, text: str) -> "re.Match[str] | None":
        """The first match in a text."""
        for need in self.needs:
            if need in text:
                return self.pattern.search(text)
        return None if self.needs else self.pattern.search(text)


def _rule(name: str, score: int, needs: str, pattern: str, on: frozenset[str] = INPUT) -> Rule:
    return Rule(name, name.partition("-")[0], score, re.compile(pattern), on, tuple(needs.split()))


def _spaced(word: str) -> str:
    """A word whose letters may have white space between them, as browsers allow in a scheme."""
    return " ?".join(word)


SCRIPT_SCHEME = f"(?:{_spaced('javascript')}|{_spaced('vbscript')}) ?:"
HANDLERS = (
    "abort|after|animation|aux|before|begin|blur|bounce|can|change|click|close|context|copy|cue|cut|dblclick|drag|duration|emptied|end|error|"
    "finish|focus|formdata|fullscreen|got|hash|input|invalid|key|load|lost|message|mouse|offline|online|page|paste|play|pointer|pop|progress|"
    "rate|ready|repeat|reset|resize|scroll|search|security|seek|select|show|slot|stalled|start|storage|submit|suspend|time|toggle|touch|"
    "transition|unload|volume|waiting|webkit|wheel"
)
RULES = (
    _rule("sqli-union", CRITICAL, "union", r"\bunion ?\(? ?(?:all |distinct )?\(? ?select\b"),
    _rule(
        "sqli-tautology",
        CRITICAL,
        "= < > ' \" `",
        r"\b(?:or|and|xor|not)[ (]{1,4}\d{1,10}[ )]{0,4}(?:=|<|>|!=)[=> (]{0,4}\d"
        r"|['\"`] ?\)? ?(?:or|and|xor|\|\||&&)\W{1,4}\w{0,20}['\"`]? ?[=<>]"
        r"|['\"`] ?(?:or|and) ['\"`]?\w{1,20}['\"`]? (?:like ['\"`]|is null|is not null|in ?\()"
        r"|['\"`] ?\)? ?(?:or|and|\|\||&&) ?(?:true|not |\d|exists|sleep)",
    ),
    _rule("sqli-comment", CRITICAL, "-- #", r"['\"`] ?\)? ?(?:--|#) ?$"),
    _rule("sqli-quote", WARNING, "-- # ;", r"['\"`] ?\)? ?(?:--|#|; ?$)|\d ?(?:--|;) ?$"),
    _rule(
        "sqli-stacked",
        CRITICAL,
        ";",
        r"; ?(?:(?:drop|alter|truncate|create) (?:table|database|view|user|index|procedure|schema)\b|delete from |insert into |"
        r"update [\w.]{1,40} set |exec(?:ute)?[ (]|shutdown\b|declare @)",
    ),
    _rule(
        "sqli-select",
        CRITICAL,
        "select",
        r"\bselect ?(?:\*|@@|\d{1,10} ?,|['\"(]|[\w.]{1,40}\(|[\w.]{1,40} ?,)[^;]{0,100}\bfrom\b"
        r"|\bselect [\w.*]{1,40} from [\w.]{1,40} (?:where|limit|union)\b|\( ?select\b",
    ),
    _rule(
        "sqli-function",
        CRITICAL,
        "( waitfor information_schema xp_cmdshell into pg_catalog sysobjects",
        r"\b(?:sleep|benchmark|pg_sleep) ?\( ?\d|\b(?:extractvalue|updatexml|load_file|group_concat|xp_cmdshell) ?\(|"
        r"\bwaitfor delay\b|\binformation_schema\b|\bxp_cmdshell\b|\binto (?:out|dump)file\b|\bpg_catalog\b|\bsysobjects\b",
    ),
    _rule("xss-script", CRITICAL, "<", r"< ?/? ?script\b"),
    _rule(
        "xss-tag",
        CRITICAL,
        "<",
        r"< ?/?(?:iframe|object|embed|applet|meta|base|svg|math|style|frameset|xml|isindex)[ />]",
    ),
    _rule(
        "xss-handler",
        CRITICAL,
        "=",
        rf"[ /'\"]on(?:{HANDLERS})[a-z]{{0,20}} ?=",
    ),
    _rule(
        "xss-scheme", CRITICAL, ":", rf"(?:^ ?|[=\"'(>] ?){SCRIPT_SCHEME}(?:[^ ]| [^ ]{{0,40}}[(=`])|data ?: ?text/html"
    ),
    _rule(
        "xss-code",
        WARNING,
        "document window",
        r"\bdocument ?[.\[] ?['\"]?(?:cookie|write|location|domain)|\bwindow ?[.\[] ?['\"]?location",
    ),
    _rule("xss-call", WARNING, "( `", r"\b(?:alert|prompt|confirm|eval|settimeout|atob|fromcharcode) ?[(`]"),
    _rule("traversal-dots", CRITICAL, "..", r"(?:^|[/\\;=])\.{2,3}(?:[/\\;]|$)", VALUES),
    _rule(
        "traversal-files",
        CRITICAL,
        "/etc/ /proc/ .ini /. \\. .env .ht .git wp-config system32",
        r"/etc/(?:passwd|shadow|group|hosts|sudoers)\b|/proc/(?:self|\d{1,7})/|\b(?:boot|win)\.ini\b|[/\\]\.(?:ssh|aws|git|svn)[/\\]|"
        r"(?:^|/)\.(?:env|htaccess|htpasswd|git)\b|wp-config\.php|[/\\]system32[/\\]",
        VALUES,
    ),
    _rule("traversal-scheme", CRITICAL, "://", r"(?:^|[=\"'(]) ?(?:php|expect|phar|gopher|dict|jar|file)://", VALUES),
    _rule("rce-jndi", CRITICAL, "${", r"\$\{ ?(?:jndi|env|lower|upper|sys|::-|script|dns|url)\b ?:?|\$\{ ?::-", VALUES),
    _rule(
        "scanner-agent",
        CRITICAL,
        "",
        r"sqlmap|nikto|nessus|acunetix|nuclei|masscan|zgrab|dirbuster|gobuster|wpscan|havij|w3af|arachni|openvas|netsparker|"
        r"feroxbuster|fuzz faster u fool|wfuzz|jaeles|commix|whatweb|burpcollaborator|appscan|qualys|zmeu",
        frozenset({"agent"}),
    ),
)
LIMITS = {
    "size-target": CRITICAL,
    "size-header": CRITICAL,
    "size-headers": CRITICAL,
    "size-parameters": CRITICAL,
    "size-value": CRITICAL,
    "size-body": CRITICAL,
    "body-malformed": CRITICAL,
    "body-encoded": CRITICAL,
    "encoding-nul": CRITICAL,
    "encoding-invalid": WARNING,
    "scanner-no-agent": NOTICE,
}
"""Rules that are no patterns."""
UNREAD = frozenset({"size-target", "size-parameters", "size-body", "body-malformed", "body-encoded"})
"""What they find is not read: reason enough to refuse a request, whatever the threshold."""
GROUPS = frozenset(rule.group for rule in RULES) | frozenset(name.partition("-")[0] for name in LIMITS)
IDS = frozenset(rule.id for rule in RULES) | frozenset(LIMITS)
