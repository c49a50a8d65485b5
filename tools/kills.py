"""`make kills KILLS=200`: kill -9 the daemon of a real volume under writing clients, and compare all it promised.

Six small disks (directories), a mount and S3; the pool is full for half of the time. Prints what happened; exit status
1 when a promise was broken, and then the volume stays where it is, to be looked at.
"""

from __future__ import annotations

import argparse
import secrets
import shutil
import statistics
import sys
import tempfile
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from kills.rounds import run_rounds
from kills.world import KilledVolume


def main() -> int:
    """Run the rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="how many")
    parser.add_argument("--seed", type=int, default=None, help="of what clients do and when the daemon dies")
    parser.add_argument(
        "--place", type=Path, default=None, help="a directory for the volume (default: a temporary one)"
    )
    options = parser.parse_args()
    seed = secrets.randbelow(2**32) if options.seed is None else options.seed
    place = Path(tempfile.mkdtemp(prefix="siltstone-kills-", dir=options.place))
    print(f"seed {seed}, in {place}", flush=True)
    volume = KilledVolume(place, seed)
    begun = time.monotonic()
    failure = ""
    try:
        run_rounds(volume, options.kills, tell=lambda line: print(line, flush=True))
    except Exception:
        failure = traceback.format_exc()
    finally:
        volume.clear()
    for name, count in sorted(volume.counts.items()):
        print(f"{count:10}  {name}")
    old, new = volume.promises.unacknowledged_found
    print(f"{volume.promises.acknowledged:10}  operations acknowledged as durable")
    print(f"{old + new:10}  operations cut short: {old} had not happened, {new} had")
    seconds = sorted(volume.seconds_to_serve)
    if seconds:
        print(f"served again after {statistics.median(seconds):.1f} s (median), {seconds[-1]:.1f} s (longest)")
    print(f"{time.monotonic() - begun:.0f} s in all")
    if failure:
        print(f"{failure}\nbroken; the volume is in {place}, the seed was {seed}", file=sys.stderr)
        return 1
    shutil.rmtree(place)
    print("nothing acknowledged was lost")
    return 0


if __name__ == "__main__":
    sys.exit(main())
