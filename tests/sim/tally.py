"""Counting what really ran over many processes: examples, and how often each rule and branch of repair fired.

An example that ended well appends one line to the file that SILTSTONE_SIM_TALLY names: what is in the file has run
whole, whatever becomes of the process. `make soak` adds the lines up.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

VARIABLE = "SILTSTONE_SIM_TALLY"


class Tally:
    """Examples that ran whole, and what fired in them."""

    def __init__(self) -> None:
        self.examples = 0
        self.fired: Counter[str] = Counter()
        self._end = 0

    def read(self, path: Path) -> None:
        """Add the lines that were appended since the last call; a line that is not whole yet waits for the next."""
        with path.open("rb") as file:
            file.seek(self._end)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._end += len(line)
                self.examples += 1
                self.fired.update(json.loads(line))


def note_example(fired: Mapping[str, int]) -> None:
    """An example has ended well: append what fired in it, if anybody wants to know."""
    path = os.environ.get(VARIABLE)
    if path:
        line = json.dumps({name: count for name, count in fired.items() if count}) + "\n"
        with open(path, "a", encoding="utf-8") as file:
            file.write(line)
