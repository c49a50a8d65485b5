"""What a volume must hold: the model that the simulation compares it with.

A name space is compared whole: after a crash it must be one of the states that it went through, not older than the last
durable one, or one that the operations under way lead to. The bytes of a file are compared one by one, as POSIX
promises no more between two fsyncs: each must be a byte that some version since the last durable one had at its place,
and no version may be older than the newest that the name space found must have (T7: a rename commits the bytes first).

Paths are names joined by "/", without one at the start; directories are in the name space like files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from siltstone.limits import KIB
from siltstone.types import Ino

UNKNOWN_INO = Ino(-1)
"""An inode whose number the interrupted operation would have told."""

COMPARE_BYTES = 4 * KIB
"""Bytes are compared in blocks of this first, one by one only where blocks differ."""


class State(NamedTuple):
    """A name space, and the version of each file that is committed with it at the least."""

    names: dict[bytes, Ino]
    floors: dict[Ino, int]


class Picture(NamedTuple):
    """What a snapshot holds. ``entries``: by the path from its top the bytes of each file, None for a directory.
    ``links``: the paths of files that are one."""

    entries: dict[bytes, bytes | None]
    links: frozenset[frozenset[bytes]]


SnapshotKey = tuple[Ino, bytes]
"""The directory that a snapshot is of, and its name."""


def picture_of(inos: Mapping[bytes, Ino], contents: Mapping[Ino, bytes]) -> Picture:
    """The picture of paths, and of the bytes of those that are files."""
    paths: dict[Ino, set[bytes]] = {}
    for path, ino in inos.items():
        paths.setdefault(ino, set()).add(path)
    entries = {path: contents.get(ino) for path, ino in inos.items()}
    return Picture(entries, frozenset(frozenset(found) for found in paths.values() if len(found) > 1))


class ModelFile:
    """The versions of one file's bytes since the last that is durable. They are numbered from the file's beginning."""

    def __init__(self, data: bytes = b"") -> None:
        self.versions: list[bytes] = [data]
        self._first = 0

    @property
    def data(self) -> bytes:
        """The bytes as every reader must see them now."""
        return self.versions[-1]

    @property
    def version(self) -> int:
        """The number of the present version."""
        return self._first + len(self.versions) - 1

    def write(self, offset: int, data: bytes) -> None:
        """Lay bytes over the file; a gap is zeros."""
        old = self.data
        padded = old + bytes(max(0, offset - len(old)))
        self.versions.append(padded[:offset] + data + padded[offset + len(data) :])

    def truncate(self, size: int) -> None:
        """Cut or extend with zeros."""
        self.versions.append(self.data[:size] + bytes(max(0, size - len(self.data))))

    def refused(self, version: int) -> None:
        """What was done since that version was refused, so it never happened."""
        del self.versions[version - self._first + 1 :]

    def decided(self, data: bytes) -> None:
        """Of what was done side by side, this came out; after a crash the rest may still be found."""
        self.versions.append(data)

    def made_durable(self) -> None:
        """Nothing older than the present version may come back."""
        self._first = self.version
        del self.versions[:-1]

    def explains(self, found: bytes, floor: int = 0) -> str:
        """Empty if a crash may leave these bytes; otherwise what is wrong with them."""
        versions = self.versions[max(0, min(floor, self.version) - self._first) :]
        sizes = [len(version) for version in versions]
        # A size in between is what a large write leaves that is committed in part, stripe by stripe.
        if not min(sizes) <= len(found) <= max(sizes):
            return f"{len(found)} bytes, versions had {sorted(set(sizes))}"
        for start in range(0, len(found), COMPARE_BYTES):
            block = found[start : start + COMPARE_BYTES]
            pieces = [version[start : start + COMPARE_BYTES] for version in versions]
            if any(piece == block for piece in pieces):
                continue
            # Where a version ends, another may have made the file longer without its bytes being there yet: zeros.
            ends = min(map(len, pieces))
            for at, byte in enumerate(block):
                if not (any(piece[at : at + 1] == block[at : at + 1] for piece in pieces) or (not byte and at >= ends)):
                    return f"byte {start + at} is {byte}, no version since the last durable one had that"
        return ""

    def adopt(self, found: bytes) -> None:
        """After a crash: what was found is the truth, and durable."""
        self.versions.append(found)
        self.made_durable()


class ModelVolume:
    """Names and files."""

    def __init__(self) -> None:
        self.files: dict[Ino, ModelFile] = {}
        self.history: list[State] = [State({}, {})]
        self.under_way: list[State] = []
        """What the operations that are under way may lead to."""
        self.unknown: dict[bytes, ModelFile] = {}
        """What is in the files that they would make, by path."""
        self.snapshots: dict[SnapshotKey, Picture] = {}
        """All that there are: each is durable when it is there."""
        self.snapshots_under_way: dict[SnapshotKey, Picture] = {}
        """Those that are being made or deleted: a crash leaves them, or none."""

    @property
    def names(self) -> dict[bytes, Ino]:
        """The name space as every reader must see it now."""
        return self.history[-1].names

    @property
    def linked(self) -> set[Ino]:
        """The files that have a name."""
        return {ino for ino in self.names.values() if ino in self.files}

    def picture(self, path: bytes) -> Picture:
        """What a snapshot of a directory holds now; the root's path is empty."""
        prefix = path + b"/" if path else b""
        inos = {other[len(prefix) :]: ino for other, ino in self.names.items() if other.startswith(prefix)}
        return picture_of(inos, {ino: self.files[ino].data for ino in inos.values() if ino in self.files})

    def has_snapshots(self, ino: Ino) -> bool:
        """Whether a directory has any."""
        return any(directory == ino for directory, _ in self.snapshots)

    def explains_snapshots(self, found: Mapping[SnapshotKey, Picture]) -> str:
        """Empty if a crash may leave these snapshots; otherwise what is wrong with them."""
        for key in self.snapshots.keys() | found.keys():
            expected = self.snapshots.get(key) or self.snapshots_under_way.get(key)
            if key not in found and key not in self.snapshots_under_way:
                return f"the snapshot {key} is not there"
            if key in found and found[key] != expected:
                return f"the snapshot {key} is {found[key]}, and not {expected}"
        return ""

    def adopt_snapshots(self, found: Mapping[SnapshotKey, Picture]) -> None:
        """After a crash: these are the truth."""
        self.snapshots, self.snapshots_under_way = dict(found), {}

    def children(self, path: bytes) -> list[bytes]:
        """The paths below a directory."""
        return [other for other in self.names if other.startswith(path + b"/")]

    def begin(
        self,
        outcomes: Iterable[Mapping[bytes, Ino]],
        made: Mapping[bytes, ModelFile] | None = None,
        *,
        floor: Ino = UNKNOWN_INO,
    ) -> None:
        """An operation is tried: a crash in it leaves what was, or one of these.

        ``made``: what is in new files. ``floor``: the file whose present bytes are committed before its new name.
        """
        self.under_way = [State(dict(names), self._floors(floor)) for names in outcomes]
        self.unknown = dict(made or {})

    def done(self, names: Mapping[bytes, Ino], *, floor: Ino = UNKNOWN_INO) -> None:
        """The operation has led to this."""
        self.under_way, self.unknown = [], {}
        self.history.append(State(dict(names), self._floors(floor)))

    def refused(self) -> None:
        """The operation was refused, so it changed nothing."""
        self.under_way, self.unknown = [], {}

    def names_durable(self) -> None:
        """Nothing older than the present name space may come back."""
        del self.history[:-1]

    def all_durable(self) -> None:
        """As after sync: neither names nor bytes may go back."""
        self.names_durable()
        for file in self.files.values():
            file.made_durable()

    def explains(self, found: Mapping[bytes, Ino], contents: Mapping[Ino, bytes]) -> str:
        """Empty if a crash may leave these names and bytes (of every file); otherwise what is wrong with them."""
        states = [state for state in (*self.history, *self.under_way) if self._matches(state, found)]
        if not states:
            return f"the names {dict(found)} are none of {[state.names for state in (*self.history, *self.under_way)]}"
        problems: list[str] = []
        for state in states:
            problem = self._problem(state, found, contents)
            if not problem:
                return ""
            problems.append(problem)
        return "; ".join(problems)

    def adopt(self, found: Mapping[bytes, Ino], contents: Mapping[Ino, bytes]) -> None:
        """After a crash: these names and bytes are the truth, and durable."""
        self.under_way, self.unknown = [], {}
        self.history = [State(dict(found), {})]
        self.files = {ino: self.files.get(ino) or ModelFile() for ino in contents}
        for ino, data in contents.items():
            self.files[ino].adopt(data)

    def _floors(self, floor: Ino) -> dict[Ino, int]:
        floors = dict(self.history[-1].floors)
        if floor in self.files:
            floors[floor] = self.files[floor].version
        return floors

    def _matches(self, state: State, found: Mapping[bytes, Ino]) -> bool:
        if state.names.keys() != found.keys():
            return False
        known = {ino for past in self.history for ino in past.names.values()} | self.files.keys()
        return all(
            found[path] not in known if ino == UNKNOWN_INO else found[path] == ino for path, ino in state.names.items()
        )

    def _problem(self, state: State, found: Mapping[bytes, Ino], contents: Mapping[Ino, bytes]) -> str:
        for path, ino in found.items():
            if ino not in contents:
                continue
            file = self.files.get(ino) or self.unknown.get(path)
            if file is None:
                return f"{path!r} is a file that nobody made"
            problem = file.explains(contents[ino], state.floors.get(ino, 0))
            if problem:
                return f"{path!r} (inode {ino}): {problem}"
        return ""
