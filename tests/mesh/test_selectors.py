from hypothesis import given
from hypothesis import strategies as st

from lateen.mesh.selectors import LabelIndex, SelectorIndex, selects

LABELS = st.dictionaries(st.sampled_from("abc"), st.sampled_from("xyz"), max_size=3)


def test_an_empty_selector_selects_everything() -> None:
    assert selects({}, {})
    assert selects({"a": "x"}, {"a": "x", "b": "y"})
    assert not selects({"a": "x"}, {"a": "y"})
    assert not selects({"a": "x"}, {})


@given(st.lists(LABELS, max_size=12), LABELS)
def test_label_index_agrees_with_a_search_of_all(objects: list[dict[str, str]], selector: dict[str, str]) -> None:
    index = LabelIndex((labels, number) for number, labels in enumerate(objects))
    assert index.select(selector) == tuple(n for n, labels in enumerate(objects) if selects(selector, labels))


@given(st.lists(LABELS, max_size=12), LABELS)
def test_selector_index_agrees_with_a_search_of_all(selectors: list[dict[str, str]], labels: dict[str, str]) -> None:
    index = SelectorIndex((selector, number) for number, selector in enumerate(selectors))
    assert index.selecting(labels) == tuple(n for n, selector in enumerate(selectors) if selects(selector, labels))
