"""Walking the models' types: which fields does an object have at a path? Used by diagnostics, the LATER table and the generated docs."""

import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from lateen.mesh.spec import Spec


@dataclass(frozen=True, slots=True)
class Shape:
    """What a field holds: `container` is "" , "[]" (list) or "<>" (map); `item` is what stands in it."""

    container: str
    item: Any

    @property
    def model(self) -> type[Spec] | None:
        """The model of the item, if it is one."""
        return self.item if isinstance(self.item, type) and issubclass(self.item, Spec) else None

    @property
    def choices(self) -> tuple[str, ...]:
        """The allowed values, if they are few."""
        if isinstance(self.item, type) and issubclass(self.item, Enum):
            return tuple(str(member.value) for member in self.item)
        return tuple(str(value) for value in get_args(self.item)) if get_origin(self.item) is Literal else ()


def _bare(annotation: Any) -> Any:  # noqa: ANN401 -- typing's forms have no common type
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation = get_args(annotation)[0]
        elif origin in {Union, types.UnionType}:
            parts = [a for a in get_args(annotation) if a is not type(None)]
            if len(parts) > 1:
                return annotation
            annotation = parts[0]
        else:
            return annotation


def shape_of(annotation: Any) -> Shape:  # noqa: ANN401 -- typing's forms have no common type
    """The shape behind Optional, Annotated, tuple and dict."""
    bare = _bare(annotation)
    origin = get_origin(bare)
    if origin is tuple:
        return Shape("[]", _bare(get_args(bare)[0]))
    if origin is dict:
        return Shape("<>", _bare(get_args(bare)[1]))
    return Shape("", bare)


@cache
def fields_of(model: type[Spec]) -> Mapping[str, Shape]:
    """The fields of a model by the name the author writes."""
    return {info.alias or name: shape_of(info.annotation) for name, info in model.model_fields.items()}


@cache
def aliases_of(model: type[Spec]) -> Mapping[str, str]:
    """Attribute name to the name the author writes."""
    return {name: info.alias or name for name, info in model.model_fields.items()}


def model_at(model: type[Spec], path: tuple[str | int, ...]) -> type[Spec] | None:
    """The model of the object at `path`, or None where there is none."""
    shape = Shape("", model)
    for step in path:
        if shape.container:
            shape = Shape("", shape.item)
        elif shape.model is None or step not in (fields := fields_of(shape.model)):
            return None
        else:
            shape = fields[str(step)]
    return None if shape.container else shape.model


def walk(model: type[Spec], prefix: str = "", seen: tuple[type[Spec], ...] = ()) -> Iterator[tuple[str, Shape]]:
    """Every field at or below `model`, as (path pattern, shape), in order of declaration."""
    for name, shape in fields_of(model).items():
        path = f"{prefix}.{name}" if prefix else name
        yield path, shape
        if shape.model is not None and shape.model not in seen:
            yield from walk(shape.model, path + shape.container, (*seen, shape.model))
