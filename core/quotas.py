"""Usage and quotas of directory trees, as commands ask for them: of a volume of one shard (docs/decisions/0024)."""

from __future__ import annotations

import stat

import msgspec

from siltstone.core.cloning import find_path
from siltstone.core.types import Attributes
from siltstone.core.volume import Volume
from siltstone.errors import InvalidArgument, NotADirectory, NotFound, NotSupported, Refused
from siltstone.meta import inodes, keys, names
from siltstone.meta.records import Quota, encode
from siltstone.types import ROOT_INO, Ino


class TreeUsageShown(msgspec.Struct, frozen=True, kw_only=True):
    """What is in a tree: bytes of files by their size; ``files`` is everything but directories."""

    path: str
    bytes: int
    files: int
    directories: int


class QuotaShown(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of a tree (0: none), and how much of them is used. ``files`` counts directories too."""

    path: str
    bytes: int
    files: int
    read_bytes: int
    write_bytes: int
    operations: int
    used_bytes: int
    used_files: int


class Quotas:
    """The usage and the quotas of an open volume."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._usage = volume.ledger.usage
        if not self._usage.is_known:
            raise NotSupported(
                "what is in a tree is not known, nor limited, in a volume of several shards; in one that is of one "
                "shard again it is when the volume has been opened anew"
            )

    async def usage(self, path: bytes) -> TreeUsageShown:
        """What is committed below a path. Raises NotFound, NotADirectory."""
        found = await find_path(self._volume, path)
        if not stat.S_ISDIR(found.mode):
            size = found.size if stat.S_ISREG(found.mode) else 0
            return TreeUsageShown(path=_text(path or b"/"), bytes=size, files=1, directories=0)
        usage = self._usage.usage(found.ino)
        return TreeUsageShown(
            path=_text(path or b"/"), bytes=usage.bytes, files=usage.files, directories=usage.directories
        )

    async def set(self, path: bytes, limits: dict[str, int]) -> QuotaShown:
        """Limit a tree; what ``limits`` (fields of Quota) leaves out stays as it is, 0 takes a limit away. Durable.

        Raises NotFound, NotADirectory, InvalidArgument, and Refused where more is there already.
        """
        found = await self._directory(path)
        if not limits:
            raise InvalidArgument(
                "nothing to limit: give --bytes, --files, --read-bytes, --write-bytes or --operations"
            )
        await self._volume.ledger.admit()
        usage, ledger = self._usage, self._volume.ledger
        # From here to the commit is one turn.
        before = usage.quotas.get(found.ino, Quota())
        quota = msgspec.structs.replace(before, **limits)
        if min(msgspec.structs.astuple(quota)) < 0:
            raise InvalidArgument("a limit is less than 0")
        held = usage.usage(found.ino)
        grown = [*self._volume.write_back.grown()]
        pending = sum(size for ino, size in grown if usage.is_below(ino, found.ino))
        self._check_room(path, "bytes", held.bytes + pending, limits.get("bytes", 0))
        self._check_room(path, "files and directories", held.files + held.directories, limits.get("files", 0))
        transaction = ledger.begin()
        if transaction.get(keys.inode(found.ino)) is None:
            raise NotFound(f"{_text(path)!r} has just been removed")
        is_limited = quota != Quota()
        if is_limited:
            transaction.put(keys.quota(found.ino), encode(quota))
        else:
            transaction.delete(keys.quota(found.ino))
        ledger.commit(transaction)
        self._note(found.ino, quota if is_limited else None, grown)
        await self._volume.wait_done()
        return self._shown(_text(path or b"/"), found.ino, quota)

    async def get(self, path: bytes) -> list[QuotaShown]:
        """Every quota that limits what is below a path, the nearest first."""
        found = await find_path(self._volume, path)
        directory = found.ino if stat.S_ISDIR(found.mode) else self._usage.home_of(found.ino)
        limits = self._usage.quotas_over(directory) if directory else []
        return [self._shown(await self._path_of(ino), ino, quota) for ino, quota in limits]

    async def all(self) -> list[QuotaShown]:
        """Every quota, in the order of paths."""
        found = [self._shown(await self._path_of(ino), ino, quota) for ino, quota in list(self._usage.quotas.items())]
        return sorted(found, key=lambda quota: quota.path)

    async def remove(self, path: bytes) -> None:
        """Take the quota of a tree away; durable on return. Raises NotFound if it has none."""
        found = await self._directory(path)
        if found.ino not in self._usage.quotas:
            raise NotFound(f"{_text(path)!r} has no quota")
        await self.set(path, dict.fromkeys(Quota.__struct_fields__, 0))

    # --- inside ----------------------------------------------------------------------------------------------------

    async def _directory(self, path: bytes) -> Attributes:
        found = await find_path(self._volume, path)
        if not stat.S_ISDIR(found.mode):
            raise NotADirectory(f"{_text(path)!r} is no directory: a quota is of a tree")
        return found

    def _note(self, ino: Ino, quota: Quota | None, grown: list[tuple[Ino, int]]) -> None:
        was_limited = self._usage.has_quotas
        self._usage.note_quota(ino, quota)
        if not was_limited:
            self._usage.note_pending(grown)

    def _check_room(self, path: bytes, what: str, used: int, limit: int) -> None:
        if limit and used > limit:
            raise Refused(f"{_text(path)!r} has {used} {what} already, more than {limit}; nothing was changed")

    def _shown(self, path: str, ino: Ino, quota: Quota) -> QuotaShown:
        usage = self._usage.usage(ino)
        size, files = usage.bytes, usage.files + usage.directories
        if ino in self._usage.quotas:
            size, files = self._usage.held(ino)
        return QuotaShown(path=path, **msgspec.structs.asdict(quota), used_bytes=size, used_files=files)

    async def _path_of(self, ino: Ino) -> str:
        """Where a directory is; of one that has just lost its name, its number."""
        path = b""
        while ino != ROOT_INO:
            parent = await self._volume.parent_of(ino)
            store = self._volume.ledger.store
            name = names.name_of(store, ino, inodes.get_inode(store, ino))
            if name is None:
                return f"(inode {ino})"
            path, ino = b"/" + name + path, parent
        return _text(path or b"/")


def _text(path: bytes) -> str:
    """A path as JSON can have it."""
    return path.decode(errors="replace")
