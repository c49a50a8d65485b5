"""Whatever goes wrong, people get one line."""

from __future__ import annotations

from siltstone.errors import NotFound, Refused
from siltstone.failure import describe, expected


def test_an_error_raised_on_purpose_is_told_in_its_own_words_however_deep_trio_wrapped_it() -> None:
    error = ExceptionGroup("", [ExceptionGroup("", [NotFound("there is no such thing")])])
    assert describe(error) == "there is no such thing"
    assert isinstance(expected(error), Refused)


def test_an_error_of_the_system_names_its_file() -> None:
    assert describe(FileNotFoundError(2, "No such file or directory", "/x")) == "/x: No such file or directory"
    assert describe(OSError("odd")).startswith("internal error")


def test_a_bug_is_told_in_one_line_with_its_place() -> None:
    try:
        raise ZeroDivisionError("first\nsecond")
    except ZeroDivisionError as error:
        text = describe(error)
        assert expected(error) is None
    assert text.startswith("internal error, please report it: ZeroDivisionError: first second at test_failure.py:")
