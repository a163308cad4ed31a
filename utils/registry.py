"""Build what a config names: explicit tables, checked against the real signatures.

A table maps a name to a class (or a function). Whatever a config may say about it is in its
signature: the names of the arguments, their types and, as `annotated_types`, their ranges. So a
class that was added a minute ago is checked like the others, and nothing is written down twice.
"""

import functools
import inspect
import json
import operator
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar, Union

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from utils.errors import ConfigError
from utils.faults import hint, join, nearest, wrong_value

__all__ = ["OVERRIDABLE", "SUPPLIED", "build", "hint", "loader_arguments", "parameter_types"]

T = TypeVar("T")

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
    "world_size": "the number of processes",
}
"""Arguments that the program sets, each with the place its value comes from."""

OVERRIDABLE = frozenset({"in_channels"})
"""Arguments that the program knows, but for which a config may say something else."""


def build(
    kind: str,
    table: Mapping[str, Callable[..., T]],
    name: str,
    args: Mapping[str, object],
    /,
    **supplied: object,
) -> T:
    """Call the entry of a table that a config names, after checking everything said about it.

    Args:
        kind: The JSON path of the component: `"arch"`, `"train_loader"`, `"loss"`, ...
        table: What there is to choose from.
        name: The component's `type`.
        args: The component's `args`, JSON values. A list is accepted for a tuple and an integer
            for a float; nothing else is converted. An annotation that JSON cannot express (a
            tensor, a callable) is not checked.
        **supplied: What the program adds. A name in both is a fault, but for `OVERRIDABLE`, where
            the config wins.

    Returns:
        What the entry returns.

    Raises:
        ConfigError: For an unknown name, and for unknown, missing, doubly set or ill-typed
            arguments, all of them in one message, each with its JSON path.
    """
    factory = _look_up(kind, table, name)
    checked, faults = _check(kind, name, factory, args, supplied)
    if faults:
        raise ConfigError("\n".join(faults))
    try:
        return factory(**(supplied | checked))
    except ValueError as error:
        # PyTorch's own constructors check their ranges and know nothing of our error family.
        # From our classes a ValueError is a bug, and keeps its traceback.
        if not factory.__module__.startswith("torch."):
            raise
        message = f"{kind}.args: {name} refuses its arguments: {error}"
        raise ConfigError(message) from error


def loader_arguments(
    kind: str,
    table: Mapping[str, Callable[..., Any]],
    name: str,
    args: Mapping[str, object],
    *,
    loader: Callable[..., Any],
) -> tuple[dict[str, object], dict[str, object]]:
    """Divide a loader's `args` into those of the data set and those of the batches.

    Args:
        kind: The JSON path of the component: `"train_loader"` or `"val_loader"`.
        table: The data sets there are.
        name: The component's `type`.
        args: The component's `args`; their names must be arguments of the data set or of `loader`.
        loader: The class that makes batches; of its arguments those that the program does not set.

    Returns:
        The data set's arguments and the loader's, ready for two calls of `build`.

    Raises:
        ConfigError: For an unknown data set or argument, with the nearest name of both.
    """
    for_data = inspect.signature(_look_up(kind, table, name)).parameters.keys()
    for_batches = inspect.signature(loader).parameters.keys() - SUPPLIED.keys()
    known = (for_data | for_batches) - SUPPLIED.keys()
    unknown = [key for key in args if key not in known and key not in for_data]
    if unknown:
        raise ConfigError(
            "\n".join(_unknown_argument(kind, name, key, frozenset(known)) for key in unknown)
        )
    batches = {key: value for key, value in args.items() if key in for_batches}
    return {key: value for key, value in args.items() if key not in batches}, batches


def parameter_types(factory: Callable[..., Any]) -> dict[str, TypeAdapter[Any] | None]:
    """What a config may say for each parameter of a class or function.

    Args:
        factory: An entry of a table.

    Returns:
        For each parameter in order a strict checker of JSON values, or None where the annotation
        is missing or is nothing that JSON can express.
    """
    function = factory.__init__ if isinstance(factory, type) else factory
    try:
        annotations = typing.get_type_hints(function, include_extras=True)
    except NameError:  # a name imported for type checkers only: nothing to check against
        annotations = {}
    return {
        name: _adapter(annotations[name]) if name in annotations else None
        for name in inspect.signature(factory).parameters
    }


def _look_up(kind: str, table: Mapping[str, Callable[..., T]], name: str) -> Callable[..., T]:
    if name not in table:
        raise ConfigError(f"{kind}.type: unknown name {name!r}{hint(name, table)}")
    return table[name]


def _check(
    kind: str,
    name: str,
    factory: Callable[..., Any],
    args: Mapping[str, object],
    supplied: Mapping[str, object],
) -> tuple[dict[str, object], list[str]]:
    """The arguments as the signature wants them, and a line for each fault."""
    parameters = inspect.signature(factory).parameters
    adapters = parameter_types(factory)
    offered = frozenset(parameters) - SUPPLIED.keys() - (supplied.keys() - OVERRIDABLE)
    checked: dict[str, object] = {}
    faults = [
        f"{kind}.type: {name} has no argument {key!r}, which the program passes; add it to its "
        "signature"
        for key in supplied
        if key not in parameters
    ]
    for key, value in args.items():
        if key in parameters and key not in offered:
            origin = SUPPLIED.get(key, "elsewhere")
            faults.append(f"{kind}.args.{key}: set by the program (from {origin}); delete it")
        elif key not in offered:
            faults.append(_unknown_argument(kind, name, key, offered))
        else:
            checked[key], fault = _check_value(join(kind, "args", key), adapters[key], value)
            faults += fault
    misspelt = {nearest(key, offered) for key in args if key not in parameters}
    faults += [
        f"{kind}.args.{key}: {name} needs this argument, and it is missing"
        for key, parameter in parameters.items()
        if parameter.default is parameter.empty
        and key not in args.keys() | supplied.keys() | misspelt
    ]
    return checked, faults


def _unknown_argument(kind: str, name: str, key: str, offered: frozenset[str]) -> str:
    return f"{kind}.args.{key}: unknown argument of {name}{hint(key, offered)}"


def _check_value(
    path: str, adapter: TypeAdapter[Any] | None, value: object
) -> tuple[object, list[str]]:
    if adapter is None:
        return value, []
    try:
        # JSON mode, because strict checks of Python values refuse a list where a tuple is asked.
        return adapter.validate_json(json.dumps(value, default=str)), []
    except ValidationError as error:
        return value, [wrong_value(path, value, error.errors(include_url=False))]


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
        return functools.reduce(operator.or_, known) if known else annotation
    if origin is tuple:
        return types.GenericAlias(tuple, tuple(map(_without_unknown_arms, arms)))
    if origin is Annotated:
        return Annotated.__class_getitem__((_without_unknown_arms(arms[0]), *arms[1:]))
    return annotation


def _is_json_type(annotation: Any) -> bool:
    try:
        TypeAdapter(annotation, config=ConfigDict(strict=True)).json_schema()
    except PydanticUserError:
        return False
    return True
