"""What keys mean: docstrings, types and defaults, of our tables and of strangers'."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from stages.config_table import Table
from stages.settings.key_docs import KeyDoc, first_sentence, key_docs


class Base(Table):
    inherited: float = Field(default=1.5, ge=0, lt=2)
    """Of the base. And more."""

    changed: int = 1
    """As it was."""


class Own(Base):
    """A table of tests."""

    changed: int = 2
    """As it is: two sentences.

    A second paragraph.
    """
    word: Literal["a", "b"] | None = None
    """A word."""
    many: tuple[int, ...] = (1, 2)
    pair: tuple[float, float] = (0.0, 1.0)
    """Two of them"""
    thing: Any = None
    needed: bool
    """Has no default, and is last."""


def test_each_key_in_the_order_of_the_table() -> None:
    docs = key_docs("own", Own)
    assert docs == [
        KeyDoc("own.inherited", "a number at least 0 and below 2", 1.5, "Of the base. And more."),
        KeyDoc("own.changed", "a whole number", 2, "As it is: two sentences.\n\nA second paragraph."),
        KeyDoc("own.word", 'one of "a", "b"', None, "A word."),
        KeyDoc("own.many", "a list of values, each a whole number", [1, 2], ""),
        KeyDoc("own.pair", "a list of 2 values, each a number", [0.0, 1.0], "Two of them"),
        KeyDoc("own.thing", "", None, ""),
        KeyDoc("own.needed", "true or false", None, "Has no default, and is last."),
    ]
    assert [doc.summary for doc in docs[:2]] == ["Of the base", "As it is: two sentences"]


def test_a_table_without_source_has_no_docstrings() -> None:
    made = type("Made", (Table,), {"__annotations__": {"x": int}, "__module__": __name__})
    assert key_docs("made", made) == [KeyDoc("made.x", "a whole number", None, "")]


def test_a_schema_that_is_no_table_is_told_without_docstrings() -> None:
    class Foreign(BaseModel):
        x: int = 3
        """Unread."""
        y: int = Field(default=4, description="As pydantic has it.")

    assert key_docs("foreign", Foreign) == [
        KeyDoc("foreign.x", "a whole number", 3, ""),
        KeyDoc("foreign.y", "a whole number", 4, "As pydantic has it."),
    ]


class Strange:
    """A type that JSON does not have."""


class Odd(Table):
    model_config = ConfigDict(arbitrary_types_allowed=True)

    thing: Strange
    """Some thing."""
    other: Strange | int = Strange()
    plain: int = Field(default=3, description="As pydantic has it.", alias="flat")


def test_a_key_that_is_set_anew_without_a_word_keeps_what_was_said_of_it() -> None:
    class Mine(Base):
        changed: int = 3

    assert [doc.text for doc in key_docs("mine", Mine)] == ["Of the base. And more.", "As it was."]


def test_a_type_that_json_does_not_have_says_nothing_and_the_others_do() -> None:
    assert key_docs("odd", Odd) == [
        KeyDoc("odd.thing", "", None, "Some thing."),
        KeyDoc("odd.other", "a whole number", None, ""),
        KeyDoc("odd.plain", "a whole number", 3, "As pydantic has it."),
    ]


def test_a_type_that_fails_to_describe_itself_says_nothing() -> None:
    class Failing(Table):
        thing: int
        """Some thing."""

        @classmethod
        def __get_pydantic_json_schema__(cls, *_: object) -> dict[str, Any]:
            raise ZeroDivisionError

    assert key_docs("failing", Failing) == [KeyDoc("failing.thing", "", None, "Some thing.")]


def test_a_docstring_may_be_indented_oddly() -> None:
    class Oddly(Table):
        thing: int
        """Some
thing."""

    assert [doc.text for doc in key_docs("odd", Oddly)] == ["Some\nthing."]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("One. Two.", "One"),
        ("Over\ntwo lines, .9 of them. Then.", "Over two lines, .9 of them"),
        ("A heading:\n\n- more", "A heading"),
        ("Of Eq. 5 of Sec. 3.4. More", "Of Eq. 5 of Sec. 3.4"),
        ("", ""),
    ],
)
def test_first_sentence(text: str, sentence: str) -> None:
    assert first_sentence(text) == sentence
