"""Partitions that go from process to process under programs that use a mount and S3."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from siltstone.home import Home
from sim.command import siltstone
from sim.mounted import MountedVolume, mounted

DIRECTORIES = 8
WRITERS = 3


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[MountedVolume]:
    with mounted(tmp_path, kind="shards") as volume:
        yield volume


class Writer(threading.Thread):
    """Makes, overwrites, renames and removes files of its own, and knows what must be in them."""

    def __init__(self, folder: Path, seed: int, over: threading.Event) -> None:
        super().__init__()
        self.errors: list[str] = []
        self.files: dict[Path, bytes] = {}
        self._folder = folder
        self._chance = random.Random(seed)
        self._over = over

    def run(self) -> None:
        try:
            for number in range(DIRECTORIES):
                (self._folder / str(number)).mkdir(parents=True)
            while not self._over.is_set():
                self._step()
        except Exception as error:
            self.errors.append(repr(error))

    def _step(self) -> None:
        chance = self._chance
        path = self._folder / str(chance.randrange(DIRECTORIES)) / str(chance.randrange(10))
        known = chance.choice(sorted(self.files)) if self.files else path
        match chance.randrange(5):
            case 0 | 1:
                self.files[path] = chance.randbytes(chance.choice([30, 5_000, 400_000]))
                path.write_bytes(self.files[path])
            case 2 if self.files:
                assert known.read_bytes() == self.files[known]
            case 3 if self.files:
                known.rename(path)
                self.files[path] = self.files.pop(known)
            case 4 if self.files:
                known.unlink()
                del self.files[known]


def test_no_operation_fails_while_partitions_move(volume: MountedVolume) -> None:
    over = threading.Event()
    writers = [Writer(volume.directory / str(number), number, over) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    try:
        for count in (1, 3):
            moved = siltstone("meta", "shards", str(count), volume.home)
            assert moved.returncode == 0, moved
            assert "have all of them now" in moved.stdout or "has all of them now" in moved.stdout
    finally:
        over.set()
        for writer in writers:
            writer.join()
    for writer in writers:
        assert not writer.errors
        for path, data in writer.files.items():
            assert path.read_bytes() == data
    checked = siltstone("fsck", volume.home, "--deep")
    assert (checked.returncode, checked.stdout) == (0, "no findings\n"), checked


def test_what_cannot_be_is_refused_in_one_line_and_changes_nothing(volume: MountedVolume) -> None:
    for count, why in (("0", "0 shards: want 1 to 64"), ("65", "65 shards: want 1 to 64")):
        refused = siltstone("meta", "shards", count, volume.home)
        assert refused.returncode == 1
        assert refused.stderr.splitlines()[-1].startswith(f"siltstone: {why}"), refused
    assert Home(volume.home).load_config().shards == 3
