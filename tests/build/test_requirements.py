"""What our packages import is what the distribution declares: the wheel test borrows its dependencies and would not notice."""

import ast
import itertools
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# pydantic pins this part of itself, and its documentation tells users to import from it.
_BELONGS_TO = {"pydantic-core": "pydantic"}
PACKAGES = [
    name for name in ("lateen", "extauthz", "ratelimit", "ca", "filters", "lateen_filter") if (ROOT / name).is_dir()
]


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("package", PACKAGES)
def test_every_import_is_declared(package: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [extra for name, extra in project["optional-dependencies"].items() if name != "dev"]
    requirements = itertools.chain(project["dependencies"], *extras)
    declared = {_normalised(re.split(r"[^\w.-]", requirement)[0]) for requirement in requirements}
    provided_by = packages_distributions()
    undeclared: set[str] = set()
    for source in (ROOT / package).rglob("*.py"):
        for module in _imports(source) - set(sys.stdlib_module_names) - set(PACKAGES):
            names = {_normalised(name) for name in provided_by.get(module, [module])}
            if not {_BELONGS_TO.get(name, name) for name in names} & declared:
                undeclared.add(f"{source.relative_to(ROOT)}: {module}")
    assert not undeclared


def _imports(source: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(source.read_bytes())):
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found
