"""Build what a config names: explicit tables, checked against the real signatures.

A table maps a name to a class (or a function). Whatever a config may say about it is in its
signature: the names of the arguments, their types and, as `annotated_types`, their ranges. So a
class that was added a minute ago is checked like the others, and nothing is written down twice.
"""

import inspect
import json
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Generic, Self, TypeVar

from pydantic import ValidationError

from utils.config.messages import hint, join, nearest, show, wrong_value
from utils.config.signatures import SUPPLIED, Argument, Checker, offered_arguments
from utils.errors import ConfigError

T = TypeVar("T")
U = TypeVar("U")

_SHOWN = 4  # names of other components in a message


class Table(MutableMapping[str, T]):
    """What a config may name: each name with the module that defines it.

    A module is imported when its entry is first looked up, so a run loads the one model file that
    it needs, and an entry is one line. A plugin adds its own: `MODELS["Tiny"] = Tiny`.
    """

    def __init__(self, modules: Mapping[str, str]) -> None:
        self._entries: dict[str, T | str] = dict(modules)

    def __getitem__(self, name: str) -> T:
        entry = self._entries[name]
        if isinstance(entry, str):
            entry = self._entries[name] = getattr(import_module(entry), name)
        return entry

    def __setitem__(self, name: str, entry: T) -> None:
        self._entries[name] = entry

    def __delitem__(self, name: str) -> None:
        del self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries  # the mixin's own would import the module


@dataclass(frozen=True)
class Choice(Generic[T]):
    """What a config chose from a table, with arguments that have been checked.

    Attributes:
        kind: The JSON path of the component: `"arch"`, `"train_loader"`, `"loss"`, ...
        name: The component's `type`.
        factory: The entry of that name.
        args: The component's `args`, as the entry wants them.
    """

    kind: str
    name: str
    factory: Callable[..., T]
    args: Mapping[str, object]

    def but(self, **args: object) -> Self:
        """The same with other arguments."""
        return replace(self, args={**self.args, **args})

    def build(self, **supplied: object) -> T:
        """Call the entry.

        Args:
            **supplied: What the program adds; of `OVERRIDABLE` the config's own wins.

        Raises:
            ConfigError: The entry does not take what the program passes, or torch refuses a value.
        """
        parameters = inspect.signature(self.factory).parameters
        if refused := [
            f"{self.kind}.type: {self.name} has no argument {key!r}, which the program passes; "
            "add it to its signature"
            for key in supplied
            if key not in parameters
        ]:
            raise ConfigError("\n".join(refused))
        try:
            return self.factory(**(supplied | dict(self.args)))
        except ValueError as error:
            # PyTorch's own classes, which a plugin may name, check their ranges and raise this.
            # From our classes a ValueError is a bug, and keeps its traceback.
            if not self.factory.__module__.startswith("torch."):
                raise
            message = f"{self.kind}.args: {self.name} refuses its arguments: {error}"
            raise ConfigError(message) from error


def choose(
    kind: str, table: Mapping[str, Callable[..., T]], name: str, args: Mapping[str, object]
) -> Choice[T]:
    """Take from a table what a config names, after checking everything said about it.

    Args:
        kind: The JSON path of the component.
        table: What there is to choose from.
        name: The component's `type`.
        args: The component's `args`, JSON values. A list is accepted for a tuple and an integer
            for a float; nothing else is converted. An annotation that JSON cannot express (a
            tensor, a callable) is not checked.

    Raises:
        ConfigError: For an unknown name, and for unknown, missing, doubly set or ill-typed
            arguments, all of them in one message, each with its JSON path.
    """
    factory = _look_up(kind, table, name)
    known = offered_arguments(factory)
    return Choice(kind, name, factory, _checked(kind, table, name, args, known))


def choose_loader(
    kind: str,
    table: Mapping[str, Callable[..., T]],
    name: str,
    args: Mapping[str, object],
    *,
    loader: Callable[..., U],
) -> tuple[Choice[T], Choice[U]]:
    """Divide a loader's `args` into those of the data set and those of the batches.

    Args:
        kind: The JSON path of the component: `"train_loader"` or `"val_loader"`.
        table: The data sets there are.
        name: The component's `type`.
        args: The component's `args`; their names must be arguments of the data set or of `loader`.
        loader: The class that makes batches; of its arguments those that the program does not set.

    Raises:
        ConfigError: For an unknown data set, and for every fault in the arguments of both.
    """
    factory = _look_up(kind, table, name)
    own = offered_arguments(loader)
    checked = _checked(kind, table, name, args, offered_arguments(factory) | own)
    data = {key: value for key, value in checked.items() if key not in own}
    batches = {key: value for key, value in checked.items() if key in own}
    return Choice(kind, name, factory, data), Choice(kind, name, loader, batches)


def build(
    kind: str,
    table: Mapping[str, Callable[..., T]],
    name: str,
    args: Mapping[str, object],
    /,
    **supplied: object,
) -> T:
    """`choose`, and build at once what was chosen."""
    return choose(kind, table, name, args).build(**supplied)


def signature_faults(
    name: str, factory: Callable[..., Any], *, expected: Iterable[str] = ()
) -> list[str]:
    """What keeps an entry of a table from being checked against a config: one line for each fault.

    Args:
        name: The entry's name.
        factory: The entry.
        expected: Arguments that it must take.
    """
    parameters = inspect.signature(factory).parameters
    loose = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    faults = [
        f"{name}: *{key} takes anything, so a config cannot be checked; name the arguments"
        for key, parameter in parameters.items()
        if parameter.kind in loose
    ]
    faults += [
        f"{name}: the argument {key!r} needs an annotation that JSON can express, such as int"
        for key, argument in offered_arguments(factory).items()
        if argument.checker is None and parameters[key].kind not in loose
    ]
    return faults + [
        f"{name}: has no argument {key!r}; add it to its signature"
        for key in expected
        if key not in parameters
    ]


def argument_faults(
    kind: str,
    name: str,
    args: Mapping[str, object],
    known: Mapping[str, Argument],
    *,
    advise: Callable[[str, object], str | None] = lambda *_: None,
) -> list[str]:
    """One line for each unknown, misplaced, ill-typed or missing argument.

    Args:
        kind: The JSON path of the component.
        name: The component's `type`.
        args: The component's `args`, JSON values.
        known: What it takes.
        advise: What to say about an unknown argument instead of naming the nearest one.
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
            tail = advise(key, value) or hint(key, known)
            faults.append(f"{path}: unknown argument of {name}{tail}")
    misspelt = {nearest(key, known) for key in args.keys() - known.keys()}
    faults += [
        f"{join(kind, 'args', key)}: missing; {name} needs it"
        for key, argument in known.items()
        if argument.needed and key not in args.keys() | misspelt
    ]
    return faults


def taken_by(key: str, value: object, others: Mapping[str, Container[str]]) -> str | None:
    """What to do with an argument that this component does not take, but others of its table do.

    Args:
        key: The argument.
        value: What the config says for it.
        others: The arguments of the others, by name.

    Returns:
        The end of a message, or None where no other takes it either.
    """
    names = [name for name, arguments in others.items() if key in arguments]
    if not names:
        return None
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    return f" (but of {shown}); delete the line {show(key)}: {show(value)}"


def _look_up(kind: str, table: Mapping[str, Callable[..., T]], name: str) -> Callable[..., T]:
    if name not in table:
        raise ConfigError(f"{kind}.type: unknown name {name!r}{hint(name, table)}")
    return table[name]


def _checked(
    kind: str,
    table: Mapping[str, Callable[..., Any]],
    name: str,
    args: Mapping[str, object],
    known: Mapping[str, Argument],
) -> dict[str, object]:
    def advise(key: str, value: object) -> str | None:
        others = {other: inspect.signature(table[other]).parameters for other in table}
        del others[name]
        return taken_by(key, value, others)

    if faults := argument_faults(kind, name, args, known, advise=advise):
        raise ConfigError("\n".join(faults))
    return {key: _convert(known[key].checker, value) for key, value in args.items()}


def _convert(checker: Checker | None, value: object) -> object:
    # JSON mode, because strict checks of Python values refuse a list where a tuple is asked.
    return value if checker is None else checker.validate_json(json.dumps(value, default=str))
