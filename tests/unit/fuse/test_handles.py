"""What the kernel holds: positions in listings, open files, lookup counts."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import trio
from hypothesis import given
from hypothesis import strategies as st

from siltstone.core.types import Attributes, DirEntry
from siltstone.fuse.handles import DirectoryHandle, Handles
from siltstone.types import Ino

SOME = Attributes(Ino(9), 0o100644, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, b"")


class Listing:
    """A directory that changes, and a reader that lists it through a handle, a few entries at a time."""

    def __init__(self, names: set[bytes]) -> None:
        self.names = set(names)
        self.handle = DirectoryHandle(Ino(2))

    async def fetch(self, after: bytes | None, limit: int) -> list[DirEntry]:
        names = sorted(name for name in self.names if after is None or name > after)
        return [DirEntry(name, Ino(9), SOME) for name in names[:limit]]

    def page(self, cookie: int, room: int) -> list[tuple[bytes, int]]:
        """Names with their positions, as many as there is room for."""
        answer: list[tuple[bytes, int]] = []

        def emit_name(name: bytes, position: int) -> bool:
            if len(answer) == room:
                return False
            answer.append((name, position))
            return True

        async def emit_dot(name: bytes, position: int) -> bool:
            return emit_name(name, position)

        def emit(entries: Sequence[DirEntry], positions: Iterable[int]) -> int:
            pairs = zip(entries, positions)  # noqa: B905 (numbers without an end)
            return sum(emit_name(entry.name, position) for entry, position in pairs)

        trio.run(self.handle.serve, cookie, self.fetch, emit_dot, emit)
        return answer

    def rest(self, cookie: int, room: int) -> list[tuple[bytes, int]]:
        """Everything behind a position, by following the positions to the end."""
        listed: list[tuple[bytes, int]] = []
        while page := self.page(cookie, room):
            listed += page
            cookie = page[-1][1]
        return listed


names = st.binary(min_size=1, max_size=3).filter(lambda name: name not in (b".", b"..") and b"/" not in name)
name_sets = st.frozensets(names, max_size=120)


@given(name_sets, st.integers(1, 60))
def test_a_listing_in_pieces_has_every_entry_once_and_dots_first(present: frozenset[bytes], room: int) -> None:
    listed = [name for name, _ in Listing(set(present)).rest(0, room)]
    assert listed[:2] == [b".", b".."]
    assert listed[2:] == sorted(present)


@given(st.data())
def test_every_position_given_out_leads_to_what_stays_there_whatever_changes(data: st.DataObject) -> None:
    always = data.draw(name_sets, "always there")
    listing = Listing(set(always))
    positions: dict[int, bytes | None] = {0: None}
    for _ in range(data.draw(st.integers(1, 12), "steps")):
        coming, going = data.draw(name_sets, "coming"), data.draw(name_sets, "going")
        listing.names = (listing.names | coming) - (going - always)
        cookie = data.draw(st.sampled_from(sorted(positions)), "position")
        if cookie == 0:
            positions = {0: None}
        behind = positions[cookie]
        page = listing.page(cookie, data.draw(st.integers(1, 40), "room"))
        ordinary = [name for name, _ in page if name not in (b".", b"..")]
        assert ordinary == sorted(set(ordinary))
        expected = {n for n in listing.names if behind is None or behind in (b".", b"..") or n > behind}
        assert ordinary == sorted(expected)[: len(ordinary)], "nothing is left out and nothing repeated"
        assert page or not expected
        for name, position in page:
            assert positions.setdefault(position, name) == name, "a position means one name for ever"
    last = max(positions)
    assert set(always) <= {name for name, _ in listing.rest(0, 7)} | {positions[last]}


def test_a_position_that_was_never_given_out_has_nothing_behind_it() -> None:
    assert Listing({b"a"}).page(99, 10) == []


def test_a_handle_remembers_what_its_flags_mean() -> None:
    handles = Handles(lambda ino: None)
    flags = (os.O_RDONLY, os.O_WRONLY, os.O_RDWR | os.O_SYNC, os.O_WRONLY | os.O_DSYNC)
    opened = [handles.files[handles.open_file(Ino(5), flag)] for flag in flags]
    assert [handle.writable for handle in opened] == [False, True, True, True]
    assert [handle.synchronous for handle in opened] == [False, False, True, True]


actions = st.lists(st.tuples(st.sampled_from(("open", "close", "lookup", "forget")), st.integers(1, 2)), max_size=60)


@given(actions)
def test_an_inode_is_let_go_of_exactly_when_its_last_use_ends(steps: list[tuple[str, int]]) -> None:
    released: list[int] = []
    handles = Handles(released.append)
    open_files: dict[int, list[int]] = {1: [], 2: []}
    lookups = {1: 0, 2: 0}
    directory = 2
    for action, number in steps:
        ino = Ino(number)
        before = bool(open_files[number]) or lookups[number] > 0
        released.clear()
        if action == "open":
            fh = handles.open_directory(ino) if number == directory else handles.open_file(ino, os.O_RDONLY)
            open_files[number].append(fh)
        elif action == "close" and open_files[number]:
            close = handles.close_directory if number == directory else handles.close_file
            close(open_files[number].pop())
        elif action == "lookup":
            handles.looked_up(ino)
            lookups[number] += 1
        elif action == "forget" and lookups[number]:
            handles.forget([(number, 1)])
            lookups[number] -= 1
        after = bool(open_files[number]) or lookups[number] > 0
        assert handles.holds(ino) == after
        assert handles.knows(ino) == (ino in handles.known()) == (lookups[number] > 0)
        assert released == ([number] if before and not after else [])
    held = {number for number in (1, 2) if handles.holds(Ino(number))}
    released.clear()
    handles.close()
    assert set(released) == held
    assert not any(handles.holds(Ino(number)) or handles.knows(Ino(number)) for number in (1, 2))


def test_a_file_that_the_mount_unlinks_is_held_only_where_it_is_open() -> None:
    handles = Handles(lambda ino: None)
    known, opened = Ino(5), Ino(6)
    for ino in (known, opened):
        handles.looked_up(ino)
    handles.open_file(opened, os.O_RDONLY)
    with handles.unlinking(known), handles.unlinking(opened):
        assert not handles.holds(known) and handles.holds(opened)
    assert handles.holds(known) and handles.holds(opened)
