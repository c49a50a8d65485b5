"""What to tell of an exception: one line for whoever asked, whatever trio wrapped around it."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from pathlib import PurePath

from siltstone.errors import SiltstoneError


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors inside an exception group, which is how trio hands on what a task raised; otherwise the error."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error


def expected(error: BaseException) -> SiltstoneError | None:
    """The error that Siltstone raised on purpose, if that is all there is; None for a bug."""
    found = list(leaves(error))
    return found[0] if found and isinstance(found[0], SiltstoneError) else None


def describe(error: BaseException) -> str:
    """One line for people."""
    leaf = next(leaves(error))
    if isinstance(leaf, SiltstoneError):
        text = str(leaf)
    elif isinstance(leaf, OSError) and leaf.strerror:
        text = f"{leaf.filename}: {leaf.strerror}" if leaf.filename else leaf.strerror
    else:
        frames = traceback.extract_tb(leaf.__traceback__)
        place = f" at {PurePath(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
        text = f"internal error, please report it: {type(leaf).__name__}: {leaf}{place}"
    return " ".join(text.split())
