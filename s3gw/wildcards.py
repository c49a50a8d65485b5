"""Patterns with ``*`` and ``?``, as regular expressions that never go back on what they found. Pure.

Each piece between two stars is taken where it is found first, which is right for such patterns; atomic groups keep the
engine from trying other places, so that no pattern takes more than its length times that of the text.
"""

from __future__ import annotations

import re


def expression(text: str) -> str:
    """A regular expression, for a full match with DOTALL."""
    literals = ["".join("." if sign == "?" else re.escape(sign) for sign in piece) for piece in re.split(r"\*+", text)]
    if len(literals) == 1:
        return literals[0]
    middle = "".join(f"(?>.*?{literal})" for literal in literals[1:-1] if literal)
    return f"{literals[0]}{middle}.*{literals[-1]}"
