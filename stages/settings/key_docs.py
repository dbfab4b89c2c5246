"""What the keys of a preset mean: the docstrings of their tables, for people who have not the code before them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, JsonSchemaWarningKind

from stages.registry import all_specs

OPTIONS = "inversion.options"
"""The table of what a method takes beside `[inversion]`."""

_END_OF_SENTENCE = re.compile(r"(?<!\bEq)(?<!\bSec)\.\s")


@dataclass(frozen=True)
class KeyDoc:
    """One key of a preset."""

    key: str
    """Dotted: `run.epochs`."""
    takes: str
    """Which values, in words; empty where its type is a stranger's and says nothing."""
    default: Any
    """As JSON has it; None where there is none, or where it follows from other keys."""
    text: str
    """The field's description, in a `Table` its docstring, paragraph by paragraph; empty where there is none."""

    @property
    def summary(self) -> str:
        """Its first sentence."""
        return first_sentence(self.text)


def key_docs(table: str, schema: type[BaseModel]) -> list[KeyDoc]:
    """All keys of a table, in its order."""
    properties = _properties(schema)
    return [
        KeyDoc(
            key=f"{table}.{name}",
            takes=_in_words(properties.get(name, {})),
            default=properties.get(name, {}).get("default"),
            text=description(schema, name),
        )
        for name in schema.model_fields
    ]


def description(schema: type[BaseModel], name: str) -> str:
    """What a field is: its own description or, of one that is set anew without any, that of the class above it."""
    levels = [level for level in schema.__mro__ if issubclass(level, BaseModel) and name in level.model_fields]
    return next((text for level in levels if (text := level.model_fields[name].description)), "")


def option_docs() -> list[KeyDoc]:
    """The options of all installed methods that have some; the text says whose they are."""
    return [
        replace(doc, text=f"Of the method `{spec.name}`.\n\n{doc.text}")
        for spec in all_specs("methods")
        if spec.schema is not None
        for doc in key_docs(OPTIONS, spec.schema)
    ]


def first_sentence(text: str) -> str:
    """The first sentence of a docstring, on one line."""
    line = " ".join(text.partition("\n\n")[0].split())
    return _END_OF_SENTENCE.split(line, maxsplit=1)[0].rstrip(".:;")


def _properties(schema: type[BaseModel]) -> Mapping[str, Any]:
    try:
        document = schema.model_json_schema(by_alias=False, schema_generator=_Lenient)
    except Exception:  # a stranger's type may describe itself, and fail in any way: its table is told without types
        return {}
    properties: Mapping[str, Any] = document.get("properties", {})
    return properties


class _Lenient(GenerateJsonSchema):
    """Says nothing of a type or a default that JSON does not have, in place of refusing or warning."""

    ignored_warning_kinds: set[JsonSchemaWarningKind] = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012

    def handle_invalid_for_json_schema(self, schema: object, error_info: str) -> JsonSchemaValue:  # noqa: ARG002
        return {}


_KINDS = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "string": "text"}
_BOUNDS = {"exclusiveMinimum": "above", "minimum": "at least", "exclusiveMaximum": "below", "maximum": "at most"}


def _in_words(schema: Mapping[str, Any]) -> str:
    """What a value may be, from its JSON schema."""
    if "anyOf" in schema:
        return " or ".join(filter(None, map(_in_words, schema["anyOf"])))
    if "enum" in schema:
        return f"one of {', '.join(map(json.dumps, schema['enum']))}"
    if "const" in schema:
        return json.dumps(schema["const"])
    if schema.get("type") == "array":
        members = schema.get("prefixItems", [schema.get("items", {})])
        number = f"{len(members)} " if "prefixItems" in schema else ""
        what = _in_words(members[0])
        return f"a list of {number}values" + (f", each {what}" if what else "")
    kind = _KINDS.get(str(schema.get("type")), "")
    bounds = [f"{words} {schema[name]:g}" for name, words in _BOUNDS.items() if name in schema]
    return " ".join(filter(None, [kind, " and ".join(bounds)]))
