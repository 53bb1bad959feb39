"""The documented tree of errors is the one that the code has."""

from __future__ import annotations

import re

from retrieval_core import errors
from retrieval_core.errors import AddressRefused, BadConfig, Permanent, SourceMissing, Transient, VitrineError


def descendants(kind: type[VitrineError]) -> list[type[VitrineError]]:
    """Return a class and all below it, each parent before its children, as the docstring draws them."""
    return [kind, *(below for child in kind.__subclasses__() for below in descendants(child))]


def test_the_docstring_draws_the_tree_of_classes() -> None:
    drawn = re.findall(r"^ {4}(?:[│ ]   )?(?:[├└]── )?(\w+)", errors.__doc__ or "", re.MULTILINE)
    assert drawn == [kind.__name__ for kind in descendants(VitrineError)]


def test_an_error_is_worth_a_retry_or_not() -> None:
    kinds = descendants(VitrineError)[1:]
    assert all(issubclass(kind, Permanent) != issubclass(kind, Transient) for kind in kinds)


def test_wrong_usage_ends_a_command_with_2_and_any_other_error_with_1() -> None:
    assert {kind for kind in descendants(VitrineError) if kind.exit_code == 2} == {
        AddressRefused,
        BadConfig,
        SourceMissing,
    }
    assert {kind.exit_code for kind in descendants(VitrineError)} == {1, 2}
