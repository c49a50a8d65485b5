"""fio on the mount (`make programs`): mixed blocks in all the ways to write, each block read back and verified."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sim.mounted import KINDS, SILTSTONE, MountedVolume, mounted

SECONDS = int(os.environ.get("SILTSTONE_PROGRAM_SECONDS", "20"))

pytestmark = pytest.mark.skipif(shutil.which("fio") is None, reason="needs fio (apt)")

WAYS = {
    "psync": ["--ioengine=psync", "--fsync=64", "--bsrange=512-256k"],
    "direct": ["--ioengine=libaio", "--iodepth=16", "--direct=1", "--bsrange=4k-256k"],
    "mmap": ["--ioengine=mmap", "--bsrange=4k-128k"],
    "sync": ["--ioengine=psync", "--sync=1", "--bsrange=512-64k"],
    "large": ["--ioengine=libaio", "--iodepth=4", "--bs=1m"],
}


@pytest.fixture(scope="module", params=KINDS)
def volume(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MountedVolume]:
    with mounted(tmp_path_factory.mktemp("fio"), kind=request.param) as volume:
        yield volume


@pytest.mark.parametrize("way", WAYS)
def test_what_fio_wrote_is_what_it_reads(volume: MountedVolume, way: str, tmp_path: Path) -> None:
    command = [
        *("fio", f"--name={way}", f"--directory={volume.directory}", "--rw=randrw", "--numjobs=2", "--size=48m"),
        *("--verify=crc32c", "--verify_fatal=1", "--verify_backlog=500", "--do_verify=1", "--bs_unaligned=0"),
        *(f"--runtime={SECONDS}", "--loops=100", "--group_reporting", "--output-format=json", *WAYS[way]),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=280)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    (job,) = json.loads(done.stdout[done.stdout.index("{") :])["jobs"]
    assert job["error"] == 0 and job["write"]["io_bytes"] > 0 and job["read"]["io_bytes"] > 0
    for file in volume.directory.iterdir():
        file.unlink()
    if volume.kind == "disks":
        fsck = subprocess.run([*SILTSTONE, "fsck", "--deep", volume.home], capture_output=True, text=True)
        assert fsck.returncode == 0, fsck.stdout + fsck.stderr
