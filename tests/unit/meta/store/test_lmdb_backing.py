"""What LMDB's backing promises beyond tests/contract/test_backing.py: it is found again, or says what is wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import trio

from siltstone.errors import FormatInvalid, Unavailable
from siltstone.meta.store.lmdb_backing import LmdbBacking
from siltstone.meta.store.memtable import Memtable
from siltstone.types import Lsn

BYTES_MAX = 1 << 26

APPLIES_FOR_EVER = """
import itertools, sys, trio
from siltstone.meta.store.lmdb_backing import LmdbBacking

async def main():
    backing = LmdbBacking(sys.argv[1], bytes_max=1 << 26, create=True)
    for number in itertools.count(backing.applied_lsn + 1):
        value = b"%d" % number
        await backing.apply([(b"%03d" % index, value) for index in range(300)], number)
        print(number, flush=True)

trio.run(main)
"""


def test_metadata_that_is_missing_is_not_made_anew(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="missing"):
        LmdbBacking(str(tmp_path / "meta"), bytes_max=BYTES_MAX, create=False)
    assert not (tmp_path / "meta").exists()


def test_a_file_that_is_no_lmdb_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(b"something else" * 1000)
    with pytest.raises(FormatInvalid, match=str(tmp_path)):
        LmdbBacking(str(tmp_path), bytes_max=BYTES_MAX, create=True)


def test_a_directory_that_cannot_be_made_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Unavailable, match="file/meta"):
        LmdbBacking(str(tmp_path / "file" / "meta"), bytes_max=BYTES_MAX, create=True)


def test_a_process_killed_while_it_applies_leaves_a_whole_state(tmp_path: Path) -> None:
    reported = 0
    for applies in (1, 2, 5):
        with subprocess.Popen(
            [sys.executable, "-c", APPLIES_FOR_EVER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            for _ in range(applies):
                reported = int(process.stdout.readline())
            os.kill(process.pid, signal.SIGKILL)
        backing = LmdbBacking(str(tmp_path), bytes_max=BYTES_MAX, create=False)
        assert backing.applied_lsn >= reported
        entries = backing.scan(b"", b"\xff", reverse=False, limit=1000)
        assert entries == [(b"%03d" % index, b"%d" % backing.applied_lsn) for index in range(300)]
        backing.close()


def test_keys_that_come_in_order_in_many_places_do_not_leave_pages_half_empty(tmp_path: Path) -> None:
    """As files of many directories do that are filled at the same time."""

    async def used_bytes(name: str, is_sorted: bool) -> int:
        backing = LmdbBacking(str(tmp_path / name), bytes_max=BYTES_MAX, create=True)
        for batch in range(1, 11):
            table = Memtable(Lsn(batch))
            numbers = range(200 * batch, 200 * batch + 200)
            table.update({b"%02d/%06d" % (place, n): bytes(40) for place in range(16) for n in numbers}, Lsn(batch))
            await backing.apply(sorted(table.items()) if is_sorted else table.items(), Lsn(batch))
        used = backing.space().used_bytes
        backing.close()
        return used

    assert trio.run(used_bytes, "passes", False) < 0.9 * trio.run(used_bytes, "sorted", True)


def test_an_apply_that_is_stuck_can_be_left_with_all_that_it_uses(tmp_path: Path) -> None:
    backing = LmdbBacking(str(tmp_path / "meta"), bytes_max=BYTES_MAX, create=True)
    let_go = threading.Event()

    def wait() -> None:
        let_go.wait()

    async def main() -> None:
        await backing.apply([(b"a", b"1")], Lsn(1))
        backing._writer.submit(wait)  # the host's disk hangs
        with trio.move_on_after(0.1):
            await backing.apply([(b"a", b"2")], Lsn(2))
        assert backing.is_stuck
        assert backing.get(b"a") == b"1"

    trio.run(main)
    backing.close()  # returns, and takes nothing away from what is stuck
    let_go.set()
    backing._writer.end()
    with pytest.raises(Exception, match="already open"):
        LmdbBacking(str(tmp_path / "meta"), bytes_max=BYTES_MAX, create=False)


PROCESS_WITH_A_STUCK_APPLY = """
import sys, threading, trio
from siltstone.meta.store.lmdb_backing import LmdbBacking

async def main():
    backing = LmdbBacking(sys.argv[1], bytes_max=1 << 26, create=True)
    backing._writer.submit(threading.Event().wait)
    with trio.move_on_after(0.1):
        await backing.apply([(b"a", b"2")], 2)
    backing.close()

trio.run(main)
"""


def test_a_process_ends_without_its_stuck_apply(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROCESS_WITH_A_STUCK_APPLY, str(tmp_path / "meta")]
    assert subprocess.run(command, check=False, timeout=60).returncode == 0
    backing = LmdbBacking(str(tmp_path / "meta"), bytes_max=BYTES_MAX, create=False)
    assert backing.applied_lsn == 0
    backing.close()
