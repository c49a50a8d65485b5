"""Does a page of 1,000 keys cost the same wherever it begins, and however many keys there are?

A volume on six directories, in this process; a bucket is filled by Volume, as a mount fills it, and pages are asked for
as the S3 door asks (the XML of a page is not in it: bench/s3.py has that). Three buckets: a tenth of the keys in one
directory, all of them in one, and all of them in directories of 1,000. Times are of the processor; medians.

ratio_start, ratio_middle, ratio_end: a page there over one at the start of the small bucket.
ratio_delimiter: a page with delimiter, of keys that are all below the folders that it folds, over the same.
ratio_readdir: the page at the start over 1,000 entries of the same directory, as a mount reads them with attributes.
`python bench/s3_listing.py [--quick] [--json] [--folder DIR] [--files KEYS]`.
"""

from __future__ import annotations

import json
import stat
import statistics
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio
from local.report import folder_for, options_of
from local.volume import disk_config, opened

from siltstone.config import VolumeConfig
from siltstone.core.object_store import ObjectStore
from siltstone.core.volume import Volume
from siltstone.types import ROOT_INO, Ino

KEYS = 1_000_000
KEYS_QUICK = 50_000
PAGE = 1000
ROUNDS = 7
FILE_MODE = stat.S_IFREG | 0o644


async def fill(volume: Volume, bucket: str, keys: int, in_directory: int) -> None:
    """Make a bucket with so many keys, ``in_directory`` to a directory (0: all in the bucket itself)."""
    top = (await volume.mkdir(ROOT_INO, bucket.encode(), mode=0o755, uid=0, gid=0)).ino
    directory = top
    for number in range(keys):
        if in_directory and number % in_directory == 0:
            name = b"d%07d" % (number // in_directory)
            directory = (await volume.mkdir(top, name, mode=0o755, uid=0, gid=0)).ino
        await volume.create(directory, b"key%07d" % number, mode=FILE_MODE, uid=0, gid=0)


def key_of(number: int, in_directory: int) -> bytes:
    """The name of a key."""
    folder = b"d%07d/" % (number // in_directory) if in_directory else b""
    return folder + b"key%07d" % number


async def processor_us(ask: Callable[[], Awaitable[int]], expected: int) -> float:
    """Microseconds of this process, the median of some rounds."""
    found = []
    for _ in range(ROUNDS):
        begun = time.process_time_ns()
        count = await ask()
        found.append((time.process_time_ns() - begun) / 1000)
        assert count == expected, f"{count} entries, not {expected}"
    return statistics.median(found)


async def measure(folder: Path, keys: int) -> list[dict[str, object]]:
    """Fill and ask."""
    config = VolumeConfig(
        uuid=str(uuid.uuid4()),
        data_units=4,
        parity_units=2,
        disks=tuple(disk_config(folder, number) for number in range(6)),
    )
    results: list[dict[str, object]] = []
    async with opened(folder, config) as (volume, _):
        store = ObjectStore(volume)
        base = 0.0
        small = max(4 * PAGE, keys // 10)
        for name, count, in_directory in (("small", small, 0), ("flat", keys, 0), ("folders", keys, PAGE)):
            begun = time.process_time()
            await fill(volume, name, count, in_directory)
            await volume.sync()
            filled = time.process_time() - begun

            def page_from(number: int, bucket: str = name, per: int = in_directory) -> Callable[[], Awaitable[int]]:
                async def ask() -> int:
                    after = key_of(number - 1, per) if number else b""
                    page = await store.list_keys(bucket, prefix=b"", delimiter=b"", start_after=after, limit=PAGE)
                    return len(page.entries)

                return ask

            us = {
                place: await processor_us(page_from(number), PAGE)
                for place, number in (("start", 0), ("middle", count // 2), ("end", count - PAGE))
            }
            base = base or us["start"]
            result: dict[str, object] = {
                "bucket": name,
                "keys": count,
                "fill_us_per_key": round(filled / count * 1e6, 1),
            }
            for place, cost in us.items():
                result |= {f"{place}_us": round(cost), f"ratio_{place}": round(cost / base, 3)}
            if in_directory:
                result |= await _folded(store, name, count // in_directory, base)
            else:
                top = (await volume.lookup(ROOT_INO, name.encode())).ino

                async def read(directory: Ino = top) -> int:
                    return len(await volume.list_directory(directory, after=None, limit=PAGE))

                readdir = await processor_us(read, PAGE)
                result |= {"readdir_us": round(readdir), "ratio_readdir": round(us["start"] / readdir, 3)}
            results.append(result)
    return results


async def _folded(store: ObjectStore, bucket: str, folders: int, base: float) -> dict[str, object]:
    async def ask() -> int:
        page = await store.list_keys(bucket, prefix=b"", delimiter=b"/", start_after=b"", limit=PAGE)
        return len(page.common_prefixes)

    cost = await processor_us(ask, min(PAGE, folders))
    return {"delimiter_us": round(cost), "ratio_delimiter": round(cost / base * PAGE / min(PAGE, folders), 3)}


def main() -> int:
    """Run; the exit status."""
    parser = options_of(__doc__, files_quick=KEYS_QUICK)
    options = parser.parse_args()
    keys = options.files or (KEYS_QUICK if options.quick else KEYS)
    with folder_for("s3_listing", options.folder) as folder:
        results = trio.run(measure, folder, keys)
    if options.json:
        print(json.dumps({"bench": "s3_listing", "results": results}))
    else:
        for result in results:
            print("  ".join(f"{name} {value}" for name, value in result.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
