"""All faults of a config at once: each with its path, what was expected, and what was meant."""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from utils.config.component_schema import Listed, listed_components
from utils.config.messages import hint, join, nearest, numbered, show, wrong_value
from utils.config.registry import argument_faults, taken_by
from utils.errors import ConfigError

M = TypeVar("M", bound=BaseModel)

_TOP = "no section, at the top level"


def raise_faults(model: type[M], data: Mapping[str, Any], source: str) -> M:
    """Check a config against its model and the components that config.schema.json lists.

    Args:
        model: The model of the whole config.
        data: The config as it was read.
        source: Where it comes from, for the message.

    Returns:
        The config, when there is nothing wrong with it.

    Raises:
        ConfigError: With every fault, one a line.
    """
    components = dict(_components(data))
    places = _places(model, components)
    faults: list[str] = []
    config = None
    try:
        # JSON mode, because strict checks of Python values refuse a list where a tuple is asked.
        config = model.model_validate_json(json.dumps(data, default=str))
    except ValidationError as error:
        faults += _model_faults(model, data, error.errors(include_url=False), places)
    for path, (args, listed) in components.items():
        advise = partial(_advice, path, listed, places)
        faults += argument_faults(path, listed.name, args, listed.arguments, advise=advise)
    if faults or config is None:
        raise ConfigError(numbered(faults, source))
    return config


def _components(data: Mapping[str, Any]) -> Iterable[tuple[str, tuple[dict[str, Any], Listed]]]:
    """The components of a config that the schema lists, by path, with their arguments."""
    for section, value in data.items():
        plain = {"type": value} if isinstance(value, str) else value
        yield from _component(section, section, plain)


def _component(
    section: str, path: str, value: Any
) -> Iterable[tuple[str, tuple[dict[str, Any], Listed]]]:
    """One component, and those that it consists of: the parts of a sum of losses."""
    if not isinstance(value, dict) or not isinstance(name := value.get("type"), str):
        return
    listed, args = listed_components().get(section, name), value.get("args", {})
    if listed is None or not isinstance(args, dict):
        return
    yield path, (args, listed)
    parts = args.get("parts") if "parts" in listed.arguments else None
    for number, part in enumerate(parts if isinstance(parts, list) else ()):
        yield from _component(section, f"{path}.args.parts[{number}]", part)


def _places(
    model: type[BaseModel], components: Mapping[str, tuple[Any, Listed]]
) -> dict[str, list[str]]:
    """For each key the sections in which it may stand."""
    places: dict[str, list[str]] = {}
    for key, field in _fields(model).items():
        places.setdefault(key, []).append(_TOP)
        if isinstance(field, type):
            for inner in _fields(field).keys() - {"type", "args"}:
                places.setdefault(inner, []).append(key)
    for section, (_, listed) in components.items():
        for key in listed.arguments:
            places.setdefault(key, []).append(f"{section}.args")
    return places


def _fields(model: type[BaseModel]) -> dict[str, type[BaseModel] | None]:
    """The keys of a section, and for those that are sections themselves their model."""
    return {
        field.alias or name: _section(field.annotation)
        for name, field in model.model_fields.items()
    }


def _section(annotation: Any) -> type[BaseModel] | None:
    arms = [annotation, *getattr(annotation, "__args__", ())]
    return next((arm for arm in arms if isinstance(arm, type) and issubclass(arm, BaseModel)), None)


def _model_faults(
    model: type[BaseModel],
    data: Mapping[str, Any],
    errors: Sequence[ErrorDetails],
    places: Mapping[str, list[str]],
) -> list[str]:
    unknown = [error["loc"] for error in errors if error["type"] == "extra_forbidden"]
    faults: list[str] = []
    wrong: dict[tuple[int | str, ...], list[ErrorDetails]] = {}
    for error in errors:
        path, location = join("", *error["loc"]), error["loc"]
        if error["type"] == "contradiction":
            missing = tuple(error["ctx"]["path"].split("."))
            if not any(_was_meant(model, other, missing) for other in unknown):
                faults.append(error["msg"])
        elif error["type"] == "extra_forbidden":
            faults.append(_unknown_key(model, location, places))
        elif error["type"] == "missing":
            if not any(_was_meant(model, other, location) for other in unknown):
                faults.append(f"{path}: missing{_example(path)}")
        elif error["type"] == "model_type" and isinstance(error["input"], str):
            name = show(error["input"])
            faults.append(f'{path}: expected an object, {{"type": {name}}}, got {name}')
        else:
            wrong.setdefault(_field(model, location), []).append(error)
    return faults + [_wrong_field(data, field, found) for field, found in wrong.items()]


def _field(model: type[BaseModel], location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """The part of a location that names a key; the rest names arms of a union and entries."""
    in_section = _fields(model).get(str(location[0])) is not None
    return location[: 2 if in_section else 1]


def _wrong_field(data: Any, field: tuple[int | str, ...], errors: Sequence[ErrorDetails]) -> str:
    for key in field:
        data = data.get(key) if isinstance(data, dict) else data  # a bare loss has no keys
    for error in errors:
        error["loc"] = error["loc"][len(field) :]
    return wrong_value(join("", *field), data, errors)


def _advice(
    section: str, listed: Listed, places: Mapping[str, list[str]], key: str, value: object
) -> str | None:
    if advice := taken_by(key, value, listed.others):
        return advice
    return _belongs(section, places.get(key, []))


def _belongs(section: str, places: Sequence[str]) -> str | None:
    """Where a key belongs: a loader's under the same loader rather than the other one."""
    near = [place for place in places if place in (section, f"{section}.args")]
    return f"; it belongs under {' or '.join(near or places)}" if places else None


def _unknown_key(
    model: type[BaseModel], location: tuple[int | str, ...], places: Mapping[str, list[str]]
) -> str:
    path, key = join("", *location), str(location[-1])
    section = str(location[0]) if len(location) > 1 else ""
    tail = _belongs(section, places.get(key, [])) or hint(key, _siblings(model, location))
    return f"{path}: unknown key{tail}"


def _siblings(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    fields = _fields(model)
    inner = fields.get(str(location[0])) if len(location) > 1 else None
    return list(_fields(inner) if inner is not None else fields)


def _was_meant(
    model: type[BaseModel], unknown: tuple[int | str, ...], missing: tuple[int | str, ...]
) -> bool:
    """Whether a missing key is there under a misspelt name, so that one line says it all."""
    same_section = unknown[:-1] == missing[:-1]
    return same_section and nearest(str(unknown[-1]), _siblings(model, unknown)) == missing[-1]


def _example(path: str) -> str:
    examples = {
        "name": '"name": "my_run"',
        "arch": '"arch": {"type": "UNet"}',
        "train_loader": '"train_loader": {"type": "Shapes", "args": {"batch_size": 8}}',
    }
    return f"; add {examples[path]}" if path in examples else "; add it"
