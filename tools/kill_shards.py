"""`make kills-shards MINUTES=5`: kill -9 shards and the owner of a real volume of three shards, under clients.

Clients create, rename, link, unlink over all shards, others put, copy, get and delete objects by S3, whose workers are
killed too, and partitions go from shard to shard and disks are replaced all the time; who is killed when is chance.
Then everything that was answered is compared, and fsck --deep finds nothing, before a restart and after it. Exit status
1 when something is missing or more, and then the volume stays.
"""

from __future__ import annotations

import argparse
import secrets
import shutil
import sys
import tempfile
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from kills.s3_clients import free_port
from kills.sharded import KilledShards, ShardedPlace

CALLS_END_SECONDS = 300
"""More than the clients' last calls take after the last kill."""


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5, help="how long")
    parser.add_argument("--seed", type=int, default=None, help="of what clients do and who dies when")
    parser.add_argument("--shards", type=int, default=3, help="how many")
    parser.add_argument("--s3-workers", type=int, default=2, help="processes that serve S3")
    options = parser.parse_args()
    seed = secrets.randbelow(2**32) if options.seed is None else options.seed
    folder = Path(tempfile.mkdtemp(prefix="siltstone-kill-shards-"))
    print(f"seed {seed}, in {folder}", flush=True)
    place = ShardedPlace(folder, options.shards, s3_port=free_port(), s3_workers=options.s3_workers)
    killed = KilledShards(place, seed)
    seconds = 60 * options.minutes
    try:
        place.start()
        place.ask(lambda caller: killed.run(caller, seconds), seconds=seconds + CALLS_END_SECONDS)
        place.ask(killed.check)
        place.fsck()
        place.stop()
        place.start()
        place.ask(killed.check)
        place.stop()
        place.fsck()
    except Exception:
        traceback.print_exc()
        print(f"broken; the volume is in {folder}, the seed was {seed}", file=sys.stderr)
        return 1
    finally:
        place.kill()
        place.wait_no_process()
    for name, count in sorted(killed.counts.items()):
        print(f"{count:10}  {name}")
    print(f"the slowest operation took {killed.slowest_seconds:.1f} s")
    shutil.rmtree(folder)
    print("all that was answered is there, and nothing else")
    return 0


if __name__ == "__main__":
    sys.exit(main())
