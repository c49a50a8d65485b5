"""`make demo`: the main job on real data, start to end, with nothing but the command `siltstone`, a mount and boto3.

Six directories as disks (4+2) in a temporary home; Python's standard library and one 1 GiB file go in through the mount
and are read back through S3, and the other way round; the log is settled; two disks are taken away, everything is read
again, and they are put back; one disk is lost for good and replaced, and all is scrubbed. Every byte is compared by its
SHA-256. One table at the end; exit status 1 at the first difference.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import boto3.s3.transfer
import botocore.config

from siltstone.core.types import Progress
from siltstone.progress import ProgressLine, format_bytes

MIB = 1024 * 1024
BLOCK_BYTES = 1 * MIB
BIG_BYTES = 1024 * MIB
S3_CLIENTS = 4
PART_BYTES = 16 * MIB
DISKS_TAKEN_AWAY = ("disk2", "disk5")
DISK_REPLACED = "disk3"
PATIENCE_SECONDS = 60.0


class DemoFailed(Exception):
    """What was expected did not happen."""


class Source(NamedTuple):
    """A file to store: where it comes from, its name below the top directory, its length and hash."""

    path: Path
    name: str
    size: int
    digest: str


class Step(NamedTuple):
    """A line of the table."""

    what: str
    files: int
    size: int
    seconds: float


class Demo:
    """The running demonstration: its directories, its process, and what was measured."""

    def __init__(self, work: Path) -> None:
        self.home = work / "home"
        self.mount = work / "mount"
        self.big = work / "one-gib.bin"
        self.steps: list[Step] = []
        self._server: subprocess.Popen[str] | None = None

    # --- the command -----------------------------------------------------------------------------------------------

    def siltstone(self, *arguments: str) -> str:
        """Run a command to its end and return what it printed."""
        show("$ siltstone " + " ".join(arguments))
        done = subprocess.run(
            [sys.executable, "-P", "-m", "siltstone", *arguments], stdout=subprocess.PIPE, text=True, check=False
        )
        if done.returncode:
            raise DemoFailed(f"siltstone {arguments[0]} ended with status {done.returncode}")
        return done.stdout

    def serve(self) -> str:
        """Start the process that mounts and serves; returns the S3 endpoint."""
        arguments = ["serve", str(self.home), "--mount", str(self.mount), "--s3", "127.0.0.1:0"]
        show("$ siltstone " + " ".join(arguments))
        command = [sys.executable, "-P", "-m", "siltstone", *arguments]
        log = (self.home / "demo.log").open("w")
        self._server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self._server.stdout is not None
        for line in self._server.stdout:
            show("  " + line.strip())
            if line.startswith("ready s3 "):
                return line.split()[2]
        raise DemoFailed("the server did not start:\n" + (self.home / "demo.log").read_text())

    def stop(self) -> None:
        """End the server as an operator would."""
        if self._server is None:
            return
        self._server.send_signal(signal.SIGTERM)
        try:
            status = self._server.wait(timeout=PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._server.kill()
            subprocess.run(["fusermount3", "-u", "-z", str(self.mount)], check=False)
            raise DemoFailed("the server did not end when told to") from None
        finally:
            self._server = None
        if status:
            raise DemoFailed(f"the server ended with status {status}")

    def status(self) -> dict[str, Any]:
        """The volume's status."""
        done = subprocess.run(
            [sys.executable, "-P", "-m", "siltstone", "status", str(self.home), "--json"],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        status: dict[str, Any] = json.loads(done.stdout)["volume"]
        return status

    def wait_for_disks(self, up_count: int) -> None:
        """Wait until the volume has noticed that so many disks are up."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while sum(disk["state"] == "up" for disk in self.status()["disks"]) != up_count:
            if time.monotonic() > deadline:
                raise DemoFailed(f"the volume did not notice that {up_count} disks are up")
            time.sleep(0.2)

    def expect_rebuilding(self, before: int) -> int:
        """Make sure that reading had to rebuild bytes from parity; returns how many ranges so far."""
        rebuilt: int = self.status()["degraded_reads"]
        if rebuilt <= before:
            raise DemoFailed("nothing was rebuilt from parity while two disks were away")
        show(f"  {rebuilt - before:,} ranges were rebuilt from parity")
        return rebuilt

    # --- measured work ---------------------------------------------------------------------------------------------

    def measure(
        self,
        what: str,
        sources: list[Source],
        work: Callable[[Source], int],
        *,
        workers: int = 1,
        finish: Callable[[], None] | None = None,
    ) -> None:
        """Do ``work`` on every source, which returns its bytes when it is done; note how long all took."""
        total = sum(source.size for source in sources)
        done = 0
        begun = time.monotonic()
        with contextlib.closing(ProgressLine(what)) as line, ThreadPoolExecutor(workers) as pool:
            for size in map(work, sources) if workers == 1 else pool.map(work, sources):
                done += size
                line(Progress(done, total, "bytes"))
            if finish is not None:
                finish()
        self.note(what, len(sources), total, time.monotonic() - begun)

    def note(self, what: str, files: int, size: int, seconds: float) -> None:
        """Add a line to the table, and show it."""
        self.steps.append(Step(what, files, size, seconds))
        show(f"  {what}: {files:,} files, {format_bytes(size)} in {seconds:.1f} s, {size / seconds / 1e6:,.0f} MB/s")

    def sync(self) -> None:
        """Make everything in the mount durable."""
        subprocess.run(["sync", "-f", str(self.mount)], check=True)


def main() -> int:
    """Run the demonstration and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", help="where to work (default: a new one under TMPDIR); needs 8 GiB")
    parser.add_argument("--big-mib", type=int, default=BIG_BYTES // MIB, help="size of the big file in MiB")
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="siltstone-demo-", dir=options.directory))
    demo = Demo(work)
    try:
        try:
            run(demo, options.big_mib * MIB)
        finally:
            demo.stop()
            if not os.path.ismount(demo.mount):
                shutil.rmtree(work, ignore_errors=True)
    except (DemoFailed, OSError, subprocess.SubprocessError) as error:
        print(f"demo failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo interrupted", file=sys.stderr)
        return 130
    print_table(demo.steps)
    print("demo passed: every byte came back through both doors, with six disks, with four, and with one replaced")
    return 0


def run(demo: Demo, big_bytes: int) -> None:
    """The story; see the module's first lines."""
    demo.mount.mkdir()
    tree = list(find_tree(Path(sysconfig.get_paths()["stdlib"])))
    show(f"a real tree: {len(tree):,} files of Python's standard library; and one file of {format_bytes(big_bytes)}")
    big = make_big(demo.big, big_bytes)

    demo.siltstone("init", str(demo.home))
    key = json.loads(demo.siltstone("key", "add", str(demo.home), "--json"))
    client = connect(demo.serve(), key)

    show("in through the mount, back through S3")
    tree_top, big_top = demo.mount / "tree", demo.mount / "big"
    demo.measure("write the tree through the mount", tree, lambda source: copy_in(source, tree_top), finish=demo.sync)
    demo.measure("write 1 file through the mount", [big], lambda source: copy_in(source, big_top), finish=demo.sync)
    compare_listing(client, "tree", tree)
    compare_listing(client, "big", [big])
    demo.measure(
        "read the tree through S3", tree, lambda source: check_object(client, "tree", source), workers=S3_CLIENTS
    )
    demo.measure("read 1 file through S3", [big], lambda source: check_object(client, "big", source))

    show("in through S3, back through the mount")
    client.create_bucket(Bucket="s3-tree")
    client.create_bucket(Bucket="s3-big")
    demo.measure(
        "write the tree through S3", tree, lambda source: put_object(client, "s3-tree", source), workers=S3_CLIENTS
    )
    demo.measure("write 1 file through S3", [big], lambda source: put_object(client, "s3-big", source))
    demo.measure("read the tree through the mount", tree, lambda source: check_file(demo.mount / "s3-tree", source))
    demo.measure("read 1 file through the mount", [big], lambda source: check_file(demo.mount / "s3-big", source))

    before = demo.status()
    begun = time.monotonic()
    demo.siltstone("settle", str(demo.home))
    settled_bytes = before["log_live_bytes"]
    demo.note("settle the log into stripes", 2 * len(tree), settled_bytes, time.monotonic() - begun)

    show(f"two of six disks away: {', '.join(DISKS_TAKEN_AWAY)}")
    for name in DISKS_TAKEN_AWAY:
        (demo.home / "disks" / name).rename(demo.home / "disks" / (name + ".away"))
    demo.wait_for_disks(4)
    every = [*tree, big]
    demo.measure(
        "read all through the mount, 4 of 6 disks",
        every,
        lambda source: check_file(demo.mount / ("big" if source is big else "tree"), source),
    )
    rebuilt = demo.expect_rebuilding(0)
    demo.measure(
        "read all through S3, 4 of 6 disks",
        every,
        lambda source: check_object(client, "s3-big" if source is big else "s3-tree", source),
        workers=S3_CLIENTS,
    )
    demo.expect_rebuilding(rebuilt)
    for name in DISKS_TAKEN_AWAY:
        (demo.home / "disks" / (name + ".away")).rename(demo.home / "disks" / name)
    demo.wait_for_disks(6)
    show("the disks are back")

    show(f"{DISK_REPLACED} is gone for good: another takes its place, and everything is read and checked")
    replace_a_disk(demo)
    begun = time.monotonic()
    report = demo.siltstone("scrub", str(demo.home))
    scrubbed_bytes = demo.status()["stripe_raw_bytes"]
    demo.note("scrub: read and check all units", 0, scrubbed_bytes, time.monotonic() - begun)
    show("  " + report.strip().replace("\n", "\n  "))
    # Scrubbing has checked every unit; the tree is read again to see it as users do.
    tree_top = demo.mount / "s3-tree"
    demo.measure("read the tree through the mount, disk replaced", tree, lambda source: check_file(tree_top, source))
    demo.siltstone("fsck", str(demo.home))
    print_space(demo, before, demo.status())
    print()
    print(demo.siltstone("df", str(demo.home)), end="")


def replace_a_disk(demo: Demo) -> None:
    """Take a disk away for good and put an empty one in its place."""
    disks = demo.home / "disks"
    shutil.rmtree(disks / DISK_REPLACED)
    demo.wait_for_disks(5)
    begun = time.monotonic()
    demo.siltstone("disk", "replace", str(demo.home), DISK_REPLACED.removeprefix("disk"), str(disks / "disk6"))
    status = demo.status()
    rebuilt_bytes: int = status["write_amplification"]["stripe_bytes"]["move"]
    demo.note("rebuild a lost disk onto a new one", 0, rebuilt_bytes, time.monotonic() - begun)
    show("  " + demo.siltstone("disk", "list", str(demo.home)).strip().replace("\n", "\n  "))


# --- sources ------------------------------------------------------------------------------------------------------


def find_tree(top: Path) -> Iterator[Source]:
    """Every regular file of the standard library, third-party packages and caches left out."""
    for folder, folders, names in os.walk(top):
        folders[:] = sorted(name for name in folders if name not in ("__pycache__", "site-packages", "dist-packages"))
        for name in sorted(names):
            path = Path(folder, name)
            if path.is_file() and not path.is_symlink():
                data = path.read_bytes()
                yield Source(path, str(path.relative_to(top)), len(data), hashlib.sha256(data).hexdigest())


def make_big(path: Path, size: int) -> Source:
    """A file of random bytes."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for _ in range(size // BLOCK_BYTES):
            block = os.urandom(BLOCK_BYTES)
            digest.update(block)
            file.write(block)
    return Source(path, path.name, size, digest.hexdigest())


# --- the two doors --------------------------------------------------------------------------------------------------


def connect(endpoint: str, key: dict[str, str]) -> Any:
    """An S3 client as anybody would make one."""
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=key["access"],
        aws_secret_access_key=key["secret"],
        region_name="us-east-1",
        config=botocore.config.Config(s3={"addressing_style": "path"}, max_pool_connections=16),
    )


def copy_in(source: Source, top: Path) -> int:
    """Copy one file below ``top`` in the mount, as cp does."""
    target = top / source.name
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.path.open("rb", buffering=0) as reader, target.open("wb", buffering=0) as writer:
        while block := reader.read(BLOCK_BYTES):
            writer.write(block)
    return source.size


def check_file(top: Path, source: Source) -> int:
    """Read one file through the mount, past the kernel's cache, and compare it."""
    digest = hashlib.sha256()
    with (top / source.name).open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return same(f"{top / source.name}", digest.hexdigest(), source)


def put_object(client: Any, bucket: str, source: Source) -> int:
    """Store one object, in parts when it is large."""
    if source.size < PART_BYTES:
        client.put_object(Bucket=bucket, Key=source.name, Body=source.path.read_bytes())
    else:
        parts = boto3.s3.transfer.TransferConfig(multipart_chunksize=PART_BYTES, max_concurrency=S3_CLIENTS)
        client.upload_file(str(source.path), bucket, source.name, Config=parts)
    return source.size


def check_object(client: Any, bucket: str, source: Source) -> int:
    """Read one object and compare it."""
    digest = hashlib.sha256()
    for block in client.get_object(Bucket=bucket, Key=source.name)["Body"].iter_chunks(BLOCK_BYTES):
        digest.update(block)
    return same(f"s3://{bucket}/{source.name}", digest.hexdigest(), source)


def compare_listing(client: Any, bucket: str, sources: Iterable[Source]) -> None:
    """The keys and sizes that S3 lists are those of the files."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    listed = {entry["Key"]: entry["Size"] for page in pages for entry in page.get("Contents", [])}
    wanted = {source.name: source.size for source in sources}
    if listed != wanted:
        odd = sorted(set(listed.items()) ^ set(wanted.items()))[0][0]
        raise DemoFailed(f"the listing of bucket {bucket} differs from the tree, first at {odd}")
    show(f"  S3 lists {len(listed):,} keys in bucket {bucket}, as written")


def same(what: str, digest: str, source: Source) -> int:
    """Raise unless the hash is the source's; returns its size."""
    if digest != source.digest:
        raise DemoFailed(f"{what} is not what was written")
    return source.size


# --- what people see ------------------------------------------------------------------------------------------------


def show(text: str) -> None:
    """A line of the story."""
    print(text, file=sys.stderr, flush=True)


def print_space(demo: Demo, before: dict[str, Any], after: dict[str, Any]) -> None:
    """Where the bytes are, before and after settling."""
    used = sum(path.stat().st_blocks * 512 for path in (demo.home / "disks").rglob("*") if path.is_file())
    print()
    print(f"{'':34}{'before settle':>16}{'after':>16}")
    for label, name in (("bytes in the log", "log_live_bytes"), ("bytes in stripes", "stripe_data_bytes")):
        print(f"{label:34}{format_bytes(before[name]):>16}{format_bytes(after[name]):>16}")
    for label, name in (("files and directories", "inodes"), ("space amplification", "space_amplification")):
        print(f"{label:34}{before[name]:>16,}{after[name]:>16,}")
    print(f"{'taken on the disks, spare included':34}{'':>16}{format_bytes(used):>16}")


def print_table(steps: list[Step]) -> None:
    """Every measured step."""
    print()
    print(f"{'step':44}{'files':>9}{'size':>12}{'seconds':>10}{'MB/s':>8}{'files/s':>10}")
    for what, files, size, seconds in steps:
        rates = f"{size / seconds / 1e6:>8,.0f}{files / seconds:>10,.0f}"
        print(f"{what:44}{files:>9,}{format_bytes(size):>12}{seconds:>10.1f}{rates}")


if __name__ == "__main__":
    sys.exit(main())
