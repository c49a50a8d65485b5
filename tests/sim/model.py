"""What a volume must hold: the model that the simulation compares it with.

A name space is compared whole: it must be one of the states it went through, not older than the last durable one. The
bytes of a file are compared one by one, as POSIX promises no more between two fsyncs: each must be a byte that some
version since the last durable one had at its place.
"""

from __future__ import annotations

from siltstone.types import Ino


class ModelFile:
    """The versions of one file's bytes since the last that is durable."""

    def __init__(self) -> None:
        self.versions: list[bytes] = [b""]

    @property
    def data(self) -> bytes:
        """The bytes as every reader must see them now."""
        return self.versions[-1]

    def write(self, offset: int, data: bytes) -> None:
        """Lay bytes over the file; a gap is zeros."""
        old = self.data
        padded = old + bytes(max(0, offset - len(old)))
        self.versions.append(padded[:offset] + data + padded[offset + len(data) :])

    def truncate(self, size: int) -> None:
        """Cut or extend with zeros."""
        self.versions.append(self.data[:size] + bytes(max(0, size - len(self.data))))

    def made_durable(self) -> None:
        """Nothing older than the present version may come back."""
        del self.versions[:-1]

    def explains(self, found: bytes) -> str:
        """Empty if a crash may leave these bytes; otherwise what is wrong with them."""
        if len(found) not in {len(version) for version in self.versions}:
            return f"{len(found)} bytes, versions had {sorted({len(version) for version in self.versions})}"
        for at, byte in enumerate(found):
            if not any(at >= len(version) or version[at] == byte for version in self.versions):
                return f"byte {at} is {byte}, no version since the last durable one had that"
        return ""

    def adopt(self, found: bytes) -> None:
        """After a crash: what was found is the truth, and durable."""
        self.versions = [found]


class ModelVolume:
    """Names and files. ``names`` is flat: path -> inode."""

    def __init__(self) -> None:
        self.files: dict[Ino, ModelFile] = {}
        self.history: list[dict[bytes, Ino]] = [{}]

    @property
    def names(self) -> dict[bytes, Ino]:
        """The name space as every reader must see it now."""
        return self.history[-1]

    def change(self, names: dict[bytes, Ino]) -> None:
        """The name space after one operation."""
        self.history.append(names)

    def names_durable(self) -> None:
        """Nothing older than the present name space may come back."""
        del self.history[:-1]

    def all_durable(self) -> None:
        """As after sync: neither names nor bytes may go back."""
        self.names_durable()
        for file in self.files.values():
            file.made_durable()

    def adopt(self, names: dict[bytes, Ino]) -> None:
        """After a crash: these names are the truth."""
        self.history = [dict(names)]
        self.files = {ino: file for ino, file in self.files.items() if ino in names.values()}
