"""What clients were promised, and what may therefore be found after the daemon was killed.

A path has *outcomes*: each is a file (its versions since the last fsync) or nothing. An operation that is under way
adds an outcome; when it is acknowledged, the others go. So after a kill:

- create, unlink, rename, PUT, multipart completion, DELETE: all of it or nothing of it. A rename leaves the new file at
  exactly one of its two names.
- write, truncate, append, until the next fsync: each byte is one that some version since the last fsync had at its
  place, and the size is between the sizes of those versions (POSIX promises no more; the bytes of a file that was made
  longer may be zeros). What was acknowledged by fsync is there, whole.
- an object is the old or the new one whole, never a part.

This is kept in the memory of the clients, who are not killed, so nothing of it depends on the volume.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from sim.model import ModelFile

Outcome = ModelFile | None


class BrokenPromise(Exception):
    """What was found may not be there."""


class Promises:
    """All paths of a volume, relative to its root. Threads use it side by side, each for paths of its own."""

    def __init__(self) -> None:
        self._outcomes: dict[str, list[Outcome]] = {}
        self._renames: dict[str, str] = {}
        self._lock = threading.Lock()
        self.acknowledged = 0
        """Operations that were acknowledged as durable."""
        self.unacknowledged_found: list[int] = [0, 0]
        """Paths at which a kill left something to choose: how often the old was found, and how often the new."""

    # --- what clients tell -----------------------------------------------------------------------------------------

    def may_be(self, path: str, outcome: Outcome) -> None:
        """An operation is tried that would lead to this."""
        with self._lock:
            self._outcomes.setdefault(path, [None]).append(outcome)

    def is_now(self, path: str, outcome: Outcome) -> None:
        """It is acknowledged as durable: nothing else may be found."""
        if outcome is not None:
            outcome.made_durable()
        with self._lock:
            self._outcomes[path] = [outcome]
            self.acknowledged += 1
            if outcome is None:
                del self._outcomes[path]

    def may_be_renamed(self, source: str, target: str) -> None:
        """A file is being renamed, over whatever is at the target."""
        (file,) = self._outcomes[source]
        self.may_be(target, file)
        self.may_be(source, None)
        self._renames[source] = target

    def is_renamed(self, source: str, target: str) -> None:
        """That is acknowledged."""
        file = self._outcomes[source][0]
        del self._renames[source]
        self.is_now(source, None)
        self.is_now(target, file)

    def is_refused(self, prefix: str) -> list[str]:
        """An operation of this client was refused: the paths of which nobody knows now what is there."""
        with self._lock:
            own = [path for path in self._outcomes if path.startswith(prefix + "/")]
            for source in own:
                self._renames.pop(source, None)
            return [path for path in own if len(self._outcomes[path]) > 1]

    def files(self, prefix: str) -> list[str]:
        """Paths below a directory at which a file is, for sure."""
        with self._lock:
            return [path for path, found in self._outcomes.items() if path.startswith(prefix + "/") and len(found) == 1]

    def file(self, path: str) -> ModelFile:
        """The file at a path where there is one for sure."""
        (file,) = self._outcomes[path]
        assert file is not None
        return file

    # --- what is found ---------------------------------------------------------------------------------------------

    def paths(self) -> list[str]:
        """Every path at which something may be, in the order in which to check them: sources of renames first."""
        return sorted(self._outcomes, key=lambda path: (path not in self._renames, path))

    def check_names(self, found: Iterable[str]) -> None:
        """Raise BrokenPromise unless these paths, all there are, may be what a kill left."""
        names = set(found)
        strange = sorted(names - self._outcomes.keys())
        if strange:
            raise BrokenPromise(f"{strange} are there, and nobody made them, or they were deleted")
        for path, outcomes in self._outcomes.items():
            if path not in names and None not in outcomes:
                raise BrokenPromise(f"{path} is not there, and it was acknowledged")
        for source, target in self._renames.items():
            if source not in names and target not in names:
                raise BrokenPromise(f"a rename of {source} to {target} has lost the file")

    def check_file(self, path: str, found: bytes | None) -> None:
        """Raise BrokenPromise unless a kill may leave these bytes; what was found is the truth from here on."""
        outcomes = self._outcomes[path]
        if path in self._renames.values():
            (source,) = (source for source, target in self._renames.items() if target == path)
            # The file is at exactly one of its names: where the source is there still, the old target must be.
            outcomes = outcomes[:-1] if self._is_there(source) else outcomes[-1:]
        problems: list[str] = []
        for number, outcome in enumerate(outcomes):
            if outcome is None or found is None:
                if outcome is None and found is None:
                    self._adopt(path, None, number, len(outcomes))
                    return
                problems.append("there is one" if outcome is None else "there is none")
                continue
            problem = outcome.explains(found)
            if not problem:
                outcome.adopt(found)
                self._adopt(path, outcome, number, len(outcomes))
                return
            problems.append(problem)
        raise BrokenPromise(f"{path}: {'; or '.join(problems)}")

    def all_checked(self) -> None:
        """Every path was checked: renames that were cut short are over."""
        self._renames.clear()

    def _is_there(self, source: str) -> bool:
        outcomes = self._outcomes.get(source)
        return outcomes is not None and outcomes[0] is not None

    def _adopt(self, path: str, outcome: Outcome, number: int, count: int) -> None:
        if count > 1:
            self.unacknowledged_found[number > 0] += 1
        if outcome is None:
            del self._outcomes[path]
        else:
            self._outcomes[path] = [outcome]
