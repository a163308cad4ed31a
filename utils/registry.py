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
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple, Protocol, TypeVar, Union

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from utils.errors import ConfigError
from utils.faults import hint, join, nearest, wrong_value

__all__ = [
    "OVERRIDABLE",
    "SUPPLIED",
    "Argument",
    "argument_faults",
    "build",
    "hint",
    "loader_arguments",
    "offered_arguments",
]

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
        ConfigError: For an unknown data set, and for every fault in the arguments of both.
    """
    for_data = offered_arguments(_look_up(kind, table, name))
    for_batches = offered_arguments(loader)
    if faults := argument_faults(kind, name, args, for_data | for_batches):
        raise ConfigError("\n".join(faults))
    batches = {key: value for key, value in args.items() if key in for_batches}
    return {key: value for key, value in args.items() if key not in batches}, batches


def argument_faults(
    kind: str,
    name: str,
    args: Mapping[str, object],
    known: Mapping[str, Argument],
    *,
    places: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> list[str]:
    """One line for each unknown, misplaced, ill-typed or missing argument.

    Args:
        kind: The JSON path of the component.
        name: The component's `type`.
        args: The component's `args`, JSON values.
        known: What it takes.
        places: Where else in the config a key may stand.
    """
    faults = []
    for key, value in args.items():
        path = join(kind, "args", key)
        if key in known:
            try:
                _convert(known[key].checker, value)
            except ValidationError as error:
                faults.append(wrong_value(path, value, error.errors(include_url=False)))
        elif key in SUPPLIED:
            faults.append(f"{path}: set by the program, from {SUPPLIED[key]}; delete it here")
        else:
            faults.append(_unknown_argument(path, name, key, known, places))
    misspelt = {nearest(key, known) for key in args.keys() - known.keys()}
    faults += [
        f"{join(kind, 'args', key)}: missing; {name} needs it"
        for key, argument in known.items()
        if argument.needed and key not in args.keys() | misspelt
    ]
    return faults


def offered_arguments(
    factory: Callable[..., Any], supplied: Iterable[str] = ()
) -> dict[str, Argument]:
    """What a config may say to an entry of a table.

    Args:
        factory: The entry: a class or a function.
        supplied: The arguments that the program passes, beside those of `SUPPLIED`.

    Returns:
        For each parameter that a config may set, in order, what it may be.
    """
    function = factory.__init__ if isinstance(factory, type) else factory
    try:
        annotations = typing.get_type_hints(function, include_extras=True)
    except NameError:  # a name imported for type checkers only: nothing to check against
        annotations = {}
    by_program = SUPPLIED.keys() | (set(supplied) - OVERRIDABLE)
    return {
        name: Argument(
            _adapter(annotations[name]) if name in annotations else None,
            needed=parameter.default is parameter.empty and name not in supplied,
        )
        for name, parameter in inspect.signature(factory).parameters.items()
        if name not in by_program
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
    arguments = offered_arguments(factory, supplied)
    parameters = inspect.signature(factory).parameters
    faults = [
        f"{kind}.type: {name} has no argument {key!r}, which the program passes; add it to its "
        "signature"
        for key in supplied
        if key not in parameters
    ]
    faults += argument_faults(kind, name, args, arguments)
    if faults:
        return {}, faults
    return {key: _convert(arguments[key].checker, value) for key, value in args.items()}, []


def _unknown_argument(
    path: str, name: str, key: str, known: Iterable[str], places: Mapping[str, Sequence[str]]
) -> str:
    if elsewhere := places.get(key):
        return f"{path}: unknown argument of {name}; it belongs under {' or '.join(elsewhere)}"
    return f"{path}: unknown argument of {name}{hint(key, known)}"


def _convert(checker: Checker | None, value: object) -> object:
    # JSON mode, because strict checks of Python values refuse a list where a tuple is asked.
    return value if checker is None else checker.validate_json(json.dumps(value, default=str))


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
        return Annotated[(_without_unknown_arms(arms[0]), *arms[1:])]  # pyrefly: ignore[invalid-annotation]
    return annotation


def _is_json_type(annotation: Any) -> bool:
    try:
        TypeAdapter(annotation, config=ConfigDict(strict=True)).json_schema()
    except PydanticUserError:
        return False
    return True
