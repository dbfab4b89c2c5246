"""The tables a preset may have: which keys exist, what they take, what is wrong with values that misfit."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from enum import Enum
from pathlib import PurePath
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, from_json

from stages.config_table import RULE_ERROR
from stages.errors import ConfigError, Problem
from stages.settings.key_docs import description, first_sentence
from stages.settings.loading import Settings

Schemas = Mapping[str, type[BaseModel]]
"""A schema for each table, by its name."""

_NO_SUCH_KEY = object()
_ALIKE = 0.7
"""Share of common letters from which a key is offered in place of an unknown one."""


def validate(
    settings: Settings, schemas: Schemas, tables_of_run: Iterable[str]
) -> tuple[dict[str, BaseModel], list[Problem]]:
    """Hold settings against the schemas: the tables that are fine, and all that is wrong with the others.

    `tables_of_run` are those that the run has though nothing be set in them.
    """
    problems = [
        unknown_key(key, schemas, settings.place_of(key))
        for name, content in settings.values.items()
        if name not in schemas
        for key in _leaves(content, name)
    ]
    tables: dict[str, BaseModel] = {}
    present = {*tables_of_run, *settings.values}
    for name in (name for name in schemas if name in present):
        table, table_problems = validate_table(name, settings.values.get(name, {}), schemas, settings)
        problems.extend(table_problems)
        if table is not None:
            tables[name] = table
    return tables, problems


def validate_table(
    name: str, values: Any, schemas: Schemas, settings: Settings
) -> tuple[BaseModel | None, list[Problem]]:
    """One table, or all that is wrong with it; `name` is its dotted key, `settings` tells the places."""
    schema = schemas[name]
    if not isinstance(values, Mapping):
        message = f"`{name}` is {shown(values)}{_in(settings.place_of(name))}: it must be a table"
        return None, [Problem(message, f"write [{name}] and its keys below it")]
    # A stranger's schema may ignore what it does not know: unknown keys are told here, for all alike.
    known = {key: value for key, value in values.items() if key in schema.model_fields}
    problems = [
        unknown_key(f"{name}.{key}", schemas, settings.place_of(f"{name}.{key}")) for key in values if key not in known
    ]
    odd = [key for key, value in known.items() if not _is_json(value)]
    if odd:
        return None, problems + [_no_json(f"{name}.{key}", known[key], settings) for key in odd]
    try:
        table = _validated(schema, known)
    except ValidationError as error:
        by_key: dict[str, list[ErrorDetails]] = {}
        for detail in error.errors(include_url=False):
            if detail["type"] != "default_factory_not_called":  # follows from another error of the table
                by_key.setdefault(_key_of(name, detail, schema), []).append(detail)
        problems += [_problem(name, key, details, settings, schema) for key, details in by_key.items()]
        wrong = {str(detail["loc"][0]) for details in by_key.values() for detail in details if detail["loc"]}
        return None, problems + _rules_that_others_break(name, known, wrong, settings, schema)
    return table, problems


def _validated(schema: type[BaseModel], values: Mapping[str, Any]) -> BaseModel:
    """A table of these values, by the rules for JSON: what TOML has no type for (tuples, paths, the members of an enum)
    comes as lists and text, as `Config.to_toml` writes it, and a strict schema takes no other liberty."""
    return schema.model_validate_json(_as_json(values))


def _as_json(value: Any) -> str:
    return json.dumps(value, default=str)  # what TOML has and JSON has not are dates


def _is_json(value: Any) -> bool:
    """Whether JSON can hold a value: no bytes that are no UTF-8 (the name of a folder), no nesting without end."""
    try:
        from_json(_as_json(value))
    except ValueError:
        return False
    return True


def _no_json(key: str, value: Any, settings: Settings) -> Problem:
    is_text = _is_unicode(json.dumps(value, default=str, ensure_ascii=False))
    reason = "it is nested too deep" if is_text else "it is no Unicode, and a run writes its settings down as UTF-8"
    return Problem(f"`{key}` is {shown(value)}{_in(settings.place_of(key))}: {reason}")


def _rules_that_others_break(
    name: str, known: Mapping[str, Any], wrong: set[str], settings: Settings, schema: type[BaseModel]
) -> list[Problem]:
    """Contradictions between keys of a table in which others are wrong: pydantic looks at rules only where none is."""
    if not wrong:
        return []
    try:
        _validated(schema, {key: value for key, value in known.items() if key not in wrong})
    except ValidationError as error:
        return [
            _rule_problem(name, detail, settings)
            for detail in error.errors(include_url=False)
            if detail["type"] == RULE_ERROR and not wrong & detail["ctx"]["values"].keys()
        ]
    return []


def parse_override(text: str, schemas: Schemas, *, place: str) -> tuple[str, Any]:
    """The dotted key and the value of `key=value`: text for a string field, TOML elsewhere, or text if it is none.

    Raises ConfigError for an unknown key or a value that is no TOML; its range is validated later.
    """
    if not _is_unicode(text):
        raise ConfigError(
            f"{place} got {text!a}, which is no Unicode: a run writes its settings down as UTF-8",
            hint="give the file or folder another name, or a link to it that has one",
        )
    key, equals, value_text = text.partition("=")
    key = key.strip()
    if not equals or not key:
        raise ConfigError(f"{place} got `{text}`, which is not key=value", hint=f"for example: {place} run.epochs=60")
    if key in schemas:
        raise ConfigError(
            f"{place} got `{text}`, but `{key}` is a table",
            hint=f"keys of `{key}`: {_keys_of(key, schemas)}",
        )
    annotation = annotation_of(key, schemas)
    if annotation is _NO_SUCH_KEY:
        problem = unknown_key(key, schemas, place)
        raise ConfigError(problem.message, hint=problem.hint)
    if all(_is_string(one) for one in _alternatives(annotation)):
        return key, value_text
    try:
        document = tomllib.loads(f"value = {value_text}")
    except (ValueError, RecursionError):  # also numbers of thousands of digits, lists in thousands of lists
        document = {}
    if set(document) == {"value"} and (isinstance(document["value"], str) or not _takes_only_text(annotation)):
        return key, document["value"]
    if _takes_text(annotation):
        return key, value_text.strip()
    raise ConfigError(
        f"`{key}` is `{value_text}` in {place}: that is not a TOML value",
        hint='a number (0.5, not .5), true, false, or a list in quotes: --set "task.mean=[0.5, 0.5, 0.5]"',
    )


def contradiction(settings: Settings, values: Mapping[str, Any], message: str, hint: str) -> Problem:
    """What is wrong with values together that are fine alone: each is told by its dotted key, with its place."""
    told = []
    for key, value in values.items():
        place = _in(settings.place_of(key)) if key in settings.places else " (the default)"
        told.append(f"`{key}` is {shown(value)}{place}")
    return Problem(f"{' and '.join(told)}: {message}", hint)


def shown(value: Any) -> str:
    """A value as a preset would have it, shortened."""
    text = json.dumps(
        value, default=lambda other: other.value if isinstance(other, Enum) else str(other), ensure_ascii=False
    )
    return text if len(text) <= 60 else f"{text[:57]}..."


def annotation_of(key: str, schemas: Schemas) -> Any:
    """The type that the field of a dotted key takes; `_NO_SUCH_KEY` where there is none."""
    table, *names = key.split(".")
    annotation: Any = schemas.get(table, _NO_SUCH_KEY)
    for name in names:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            info = annotation.model_fields.get(name)
            annotation = info.annotation if info is not None else _NO_SUCH_KEY
        elif get_origin(annotation) is dict:
            annotation = get_args(annotation)[1]
        elif annotation is not Any:
            return _NO_SUCH_KEY
    return annotation


def is_key(key: str, schemas: Schemas) -> bool:
    """Whether a preset may have this dotted key."""
    return annotation_of(key, schemas) is not _NO_SUCH_KEY


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    """The types a field takes, None apart."""
    if get_origin(annotation) is Annotated:
        return _alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return tuple(one for part in get_args(annotation) for one in _alternatives(part))
    return () if annotation is NoneType else (annotation,)


def _is_string(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, (str, PurePath))


def _is_text(annotation: Any) -> bool:
    """A string, or one of several words."""
    choices = _choices(annotation)
    return all(isinstance(value, str) for value in choices) if choices else _is_string(annotation)


def _choices(annotation: Any) -> tuple[Any, ...]:
    """The values of a type that has a few, as a preset would have them."""
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return tuple(member.value for member in annotation)
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _takes_only_text(annotation: Any) -> bool:
    return all(_is_text(one) for one in _alternatives(annotation))


def _takes_text(annotation: Any) -> bool:
    return any(one is Any or _is_text(one) for one in _alternatives(annotation))


def _leaves(content: Any, key: str) -> Iterator[str]:
    """The dotted keys of the values in a table, or the table's own where it has none."""
    if not isinstance(content, Mapping) or not content:
        yield key
        return
    for name, value in content.items():
        yield from _leaves(value, f"{key}.{name}")


def unknown_key(key: str, schemas: Schemas, place: str | None = None) -> Problem:
    """What to say of a key that no table has, with the nearest that one has."""
    return Problem(f"unknown key `{key}`{_in(place)}", _nearest(key, schemas))


def _nearest(key: str, schemas: Schemas) -> str:
    """A hint with the likeliest key: the nearest of the table, or of all, or else the table's keys."""
    table = next((name for name in schemas if key.startswith(f"{name}.")), key.partition(".")[0])
    name = key.removeprefix(table).removeprefix(".")
    tables = get_close_matches(table, schemas, n=1)
    homes = {own: f"{other}.{own}" for other, schema in schemas.items() for own in schema.model_fields}
    if table in schemas and name in (hints := getattr(schemas[table], "hints_at_unknown", {})):
        return str(hints[name])
    if tables and name:
        names = get_close_matches(name, schemas[tables[0]].model_fields, n=1, cutoff=_ALIKE)
        if names:
            return f"did you mean `{tables[0]}.{names[0]}`?"
    names = get_close_matches(name or table, homes, n=1, cutoff=_ALIKE)
    if names:
        return f"did you mean `{homes[names[0]]}`?"
    if tables:
        return f"keys of `{tables[0]}`: {_keys_of(tables[0], schemas)}"
    return f"tables: {', '.join(schemas)}"


def _keys_of(table: str, schemas: Schemas) -> str:
    return ", ".join(schemas[table].model_fields) or "none"


def _key_of(name: str, detail: ErrorDetails, schema: type[BaseModel]) -> str:
    """The dotted key an error is about, without the names pydantic gives to the members of a union."""
    if detail["type"] == RULE_ERROR:
        return f"{name}.{next(iter(detail['ctx']['values']))}"
    key = name
    level: Any = schema
    for part in detail["loc"]:
        if isinstance(part, int) and not _is_short_tuple(detail):
            key += f"[{part}]"
        elif isinstance(level, type) and issubclass(level, BaseModel) and part in level.model_fields:
            key += f".{part}"
            level = level.model_fields[part].annotation
    return key


def _problem(table: str, key: str, details: list[ErrorDetails], settings: Settings, schema: type[BaseModel]) -> Problem:
    """All that pydantic says about one key, in a sentence with the value and its place."""
    first = details[0]
    place = settings.place_of(key.partition("[")[0])
    if first["type"] == "missing" and not _is_short_tuple(first):
        return Problem(f"`{key}` is not set", f"set it in a preset, or with --set {key}=VALUE")
    if first["type"] == RULE_ERROR:
        return _rule_problem(table, first, settings)
    value = first["input"]
    if _is_short_tuple(first):
        reasons = [f"it must have {int(details[-1]['loc'][-1]) + 1} values"]
    else:
        # Members of a union fail one by one: "it must be a valid integer" or "it must be 'auto'".
        reasons = list(dict.fromkeys(_reason(detail) for detail in details))
    reason = " or ".join([reasons[0], *(other.removeprefix("it must be ") for other in reasons[1:])])
    message = f"`{key}` is {shown(value)}{_in(place)}: {reason}"
    name = str(first["loc"][0]) if first["loc"] else ""
    return Problem(message, _hint(schema, name, f"{table}.{name}", value))


def _is_short_tuple(detail: ErrorDetails) -> bool:
    """Whether pydantic misses a member of a tuple of fixed length."""
    return detail["type"] == "missing" and isinstance(detail["loc"][-1], int)


def _rule_problem(table: str, detail: ErrorDetails, settings: Settings) -> Problem:
    """A contradiction between keys of a table."""
    context = detail["ctx"]
    values = {f"{table}.{name}": value for name, value in context["values"].items()}
    return contradiction(settings, values, context["message"], context["hint"])


def _reason(detail: ErrorDetails) -> str:
    """What pydantic says, as the end of a sentence about the value."""
    limits = detail.get("ctx", {})
    if detail["type"] == "too_short":
        return f"it must have at least {limits['min_length']} value(s)"
    if detail["type"] == "too_long":
        return f"it must have at most {limits['max_length']} value(s)"
    return (
        detail["msg"]
        .replace("Input should be", "it must be")
        .replace("a valid array", "a list")
        .replace("an object", "a table")
        .removeprefix("Value error, ")
    )


def _hint(schema: type[BaseModel], name: str, key: str, value: Any) -> str | None:
    """The nearest of the values that a field allows, or its default, or what it is."""
    info = schema.model_fields.get(name)
    if info is None:
        return None
    allowed = [choice for one in _alternatives(info.annotation) for choice in _choices(one) if isinstance(choice, str)]
    near = get_close_matches(value, allowed, n=1) if isinstance(value, str) else []
    if near:
        return f"did you mean `{near[0]}`?"
    has_default = not info.is_required() and info.default_factory is None and info.get_default() is not None
    if has_default:
        return f"the default is {shown(info.get_default())}"
    what = first_sentence(description(schema, name))
    more = "" if key.count(".") > 1 else f"; `ssdkd presets explain {key}` says more"  # not of a method's options
    return what + more if what else None


def _in(place: str | None) -> str:
    return f" in {place}" if place else ""


def _is_unicode(text: str) -> bool:
    """Whether a text of the command line was UTF-8: other bytes come as lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
