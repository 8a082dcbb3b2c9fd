"""What the library offers, and that it can be bundled in any choice."""

import ast
import importlib
import inspect
from pathlib import Path

import pytest
import yaml

import filters.library
from filters.library import catalog
from filters.sdk.config import config_schema, decode_config
from filters.sdk.options import OPTIONS_KEY, Options
from lateen_filter import FilterConfig, HttpFilter

LIBRARY = Path(str(filters.library.__file__)).parent
FILES = {path.split(":")[0]: name for name, path in catalog().items()}


def _filter(name: str) -> type[HttpFilter]:
    module, _, attribute = catalog()[name].partition(":")
    found: type[HttpFilter] = getattr(importlib.import_module(module), attribute)
    assert issubclass(found, HttpFilter)
    return found


@pytest.mark.parametrize("name", catalog())
def test_every_filter_is_there_under_its_name(name: str) -> None:
    kind = _filter(name)
    assert kind.name == name
    assert inspect.getdoc(kind)
    assert config_schema(kind.Config)["type"] == "object"


def test_every_file_with_a_filter_is_in_the_catalog() -> None:
    with_filter = {
        f"filters.library.{path.stem}"
        for path in LIBRARY.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
        and any(isinstance(base, ast.Name) and base.id == "HttpFilter" for base in node.bases)
    }
    assert with_filter == set(FILES)


@pytest.mark.parametrize("module", FILES)
def test_no_filter_imports_another(module: str) -> None:
    """Else a module with one would hold the other as well."""
    tree = ast.parse((LIBRARY / f"{module.rpartition('.')[2]}.py").read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not imported & set(FILES)


def _section(name: str) -> str:
    text = (LIBRARY.parent.parent / "docs" / "filters-library.md").read_text(encoding="utf-8")
    return text.partition(f"\n## {name}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("name", catalog())
def test_every_field_of_a_configuration_is_in_the_documentation(name: str) -> None:
    section = _section(name)
    missing = [field for field in _fields(_filter(name).Config) if f"`{field}`" not in section]
    assert not missing


@pytest.mark.parametrize("name", catalog())
def test_the_example_of_the_documentation_is_valid(name: str) -> None:
    example = yaml.safe_load(_section(name).partition("```yaml\n")[2].partition("```")[0])
    assert example["spec"]["pluginName"] == name
    config = dict(example["spec"]["pluginConfig"])
    decode_config(Options, config.pop(OPTIONS_KEY, {}))
    decode_config(_filter(name).Config, config)


def _fields(kind: type[FilterConfig]) -> list[str]:
    first = config_schema(kind)["properties"]
    assert isinstance(first, dict)
    return list(first)
