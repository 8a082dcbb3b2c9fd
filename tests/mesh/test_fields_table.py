"""The generated pages are current."""

import pytest

from lateen.mesh.diagnostics import CODES
from tools import fields_table


@pytest.mark.parametrize(
    ("name", "text"),
    [("supported-fields.md", fields_table.fields_page()), ("diagnostics.md", fields_table.diagnostics_page())],
    ids=["fields", "codes"],
)
def test_pages_are_current(name: str, text: str) -> None:
    current = (fields_table.DOCS / name).read_text()
    assert current == text, "run: python tools/fields_table.py"


def test_the_page_says_yes_and_later() -> None:
    page = fields_table.fields_page()
    assert "| `spec.http[].timeout` | duration | yes |" in page
    assert "| `spec.trafficPolicy.tunnel` | object | later |" in page
    assert "| `spec.rules[].from[].source.principals` | list of string | yes |" in page


def test_every_code_has_an_anchor() -> None:
    page = fields_table.diagnostics_page()
    for code in CODES:
        assert f"\n## {code}\n" in page
