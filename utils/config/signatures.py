"""What a config may say to a class or function, read from its signature."""

import inspect
import operator
import types
import typing
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Annotated, Any, NamedTuple, Protocol, Union

from pydantic import ConfigDict, TypeAdapter
from pydantic.errors import PydanticUserError

SUPPLIED: Mapping[str, str] = {
    "class_weights": "the top-level key class_weights",
    "dataset": "the type and args of the loader",
    "ignore_index": "the top-level key ignore_index",
    "num_classes": "the classes of the data set",
    "optimizer": "the section optimizer",
    "params": "the model",
    "pin_memory": "the device",
    "rank": "the process",
    "seed": "the top-level key seed",
    "total_steps": "trainer.epochs and the length of the training data",
    "train": "whether it is train_loader or val_loader",
    "world_size": "the number of processes",
}
"""Arguments that the program sets, each with the place its value comes from."""

OVERRIDABLE = frozenset({"in_channels"})
"""Arguments that the program knows, but for which a config may say something else."""


class Checker(Protocol):
    """Something of pydantic's that checks JSON text."""

    def validate_json(self, data: str, /) -> Any:
        """The value, or a ValidationError."""


class Argument(NamedTuple):
    """What a config may say for one argument."""

    checker: Checker | None
    """Checks a JSON value; None where the annotation is missing or not for JSON."""
    needed: bool
    """Whether there is no default."""


def offered_arguments(factory: Callable[..., Any]) -> dict[str, Argument]:
    """What a config may say to an entry of a table, a class or a function.

    Returns:
        For each parameter that a config may set, in order, what it may be.
    """
    function = factory.__init__ if isinstance(factory, type) else factory
    try:
        annotations = typing.get_type_hints(function, include_extras=True)
    except NameError:  # a name imported for type checkers only: nothing to check against
        annotations = {}
    return {
        name: Argument(
            _adapter(annotations[name]) if name in annotations else None,
            needed=parameter.default is parameter.empty and name not in OVERRIDABLE,
        )
        for name, parameter in inspect.signature(factory).parameters.items()
        if name not in SUPPLIED
    }


def _adapter(annotation: Any) -> TypeAdapter[Any] | None:
    annotation = _without_unknown_arms(annotation)
    if not _is_json_type(annotation):
        return None
    return TypeAdapter(annotation, config=ConfigDict(strict=True, allow_inf_nan=False))


def _without_unknown_arms(annotation: Any) -> Any:
    """`float` for torch's `float | Tensor`: a config cannot hold a tensor anyway."""
    origin, arms = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (Union, types.UnionType):
        known = [arm for arm in map(_without_unknown_arms, arms) if _is_json_type(arm)]
        return reduce(operator.or_, known) if known else annotation
    if origin is tuple:
        return types.GenericAlias(tuple, tuple(map(_without_unknown_arms, arms)))
    if origin is Annotated:
        return Annotated[(_without_unknown_arms(arms[0]), *arms[1:])]  # pyrefly: ignore[invalid-annotation]
    return annotation


def _is_json_type(annotation: Any) -> bool:
    try:
        # In a list, since a type with a config of its own takes no other.
        TypeAdapter(list[annotation], config=ConfigDict(strict=True)).json_schema()
    except PydanticUserError:
        return False
    return True
