"""`lateen filter new`: what a new filter's project holds."""

import keyword
import re
import sys
from pathlib import Path

from lateen.cli.exits import CommandError, Exit
from lateen.cli.output import say

FILTER = '''"""{title}: an HTTP filter for Envoy."""

from lateen_filter import FilterConfig, HttpFilter, Request, Response


class {name}(HttpFilter):
    """Answers requests under one path itself, and marks the responses to all others."""

    class Config(FilterConfig):
        path: str = "/maintenance"
        message: str = "back soon"

        def validate(self) -> None:
            if not self.path.startswith("/"):
                raise ValueError("path has to begin with /")

    config: Config

    async def on_request(self, request: Request) -> Response | None:
        if request.path.startswith(self.config.path):
            return Response(503, self.config.message + "\\n", {{"retry-after": "60"}})
        return None

    async def on_response(self, request: Request, response: Response) -> None:
        response.headers["x-filtered-by"] = "{title}"
'''
TESTS = '''"""Run with `lateen filter test`, or pytest; with --envoy the same tests run against the built module in a real Envoy."""

import pytest
from lateen_filter import ConfigError
from lateen_filter.testing import FilterHostFactory

from {module} import {name}


def test_requests_under_the_path_are_answered(filter_host: FilterHostFactory) -> None:
    host = filter_host({name}, {{"message": "tomorrow"}})
    answer = host.request("GET", "/maintenance/x")
    assert (answer.status, answer.text, answer.headers["retry-after"]) == (503, "tomorrow\\n", "60")
    assert answer.upstream_request is None


def test_others_pass(filter_host: FilterHostFactory) -> None:
    answer = filter_host({name}).request("GET", "/shop?item=1")
    assert answer.upstream_request is not None
    assert answer.upstream_request.path == "/shop?item=1"
    assert (answer.status, answer.headers["x-filtered-by"]) == (200, "{title}")


def test_a_configuration_that_does_not_fit_is_refused(filter_host: FilterHostFactory) -> None:
    with pytest.raises(ConfigError, match="path has to begin with /"):
        filter_host({name}, {{"path": "maintenance"}})
'''
# An ini file of its own: a project above it would lend it its options.
PYTEST = """[pytest]
pythonpath = .
testpaths = tests
"""
IGNORED = """*.wasm
.pytest_cache/
__pycache__/
"""


TAKEN = frozenset({"conftest", "filters", "lateen", "lateen_filter", "pytest", "test", "tests"})


def new(directory: Path) -> None:
    """Write the project; CommandError if the name is none or something is there already."""
    title = directory.resolve().name
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", title):
        raise CommandError(
            Exit.USAGE, f"{title!r} is no name for a filter", "use lower-case letters, digits and dashes"
        )
    if directory.is_file() or (directory.is_dir() and any(directory.iterdir())):
        raise CommandError(Exit.USAGE, f"{directory} is not empty", "name a directory that is new")
    module = title.replace("-", "_")
    if keyword.iskeyword(module) or module in sys.stdlib_module_names or module in TAKEN:
        what = "a word of Python's own" if keyword.iskeyword(module) else "the name of another module"
        raise CommandError(Exit.USAGE, f"{module} is {what}: a filter's file cannot have it", f"try my-{title}")
    name = "".join(part.capitalize() for part in title.split("-"))
    files = {
        f"{module}.py": FILTER.format(title=title, name=name),
        f"tests/test_{module}.py": TESTS.format(module=module, name=name, title=title),
        "pytest.ini": PYTEST,
        ".gitignore": IGNORED,
    }
    for path, text in files.items():
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    say("\n".join(f"{directory / path}" for path in files))
    say(f"next: lateen filter test {directory}")
