"""`make soak`: the simulation on new seeds until the time is up, or until so many examples of the volume machine ran.

By time every stateful test runs, by examples the volume machine alone, some hundred examples a process (a volume in
simulation takes memory). The end says how many examples really ran to their end, and how often each rule and branch of
repair fired in them. A failure prints the seed to replay it with.
"""

from __future__ import annotations

import argparse
import os
import secrets
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TREE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TREE / "tests"))

from sim.tally import VARIABLE, Tally  # noqa: E402

ROUND_EXAMPLES = 250

MACHINE = "tests/stateful/test_volume_machine.py"


def main() -> int:
    """Run rounds; exit status 1 at the first failure, or with fewer examples than were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=None, help="how long (default: 10, without --examples)")
    parser.add_argument("--examples", type=int, default=0, help="how many examples of the volume machine")
    options = parser.parse_args()
    minutes = options.minutes if options.minutes is not None else float("inf") if options.examples else 10.0
    with tempfile.TemporaryDirectory(prefix="siltstone-soak-") as folder:
        tally_path = Path(folder, "tally")
        tally_path.touch()
        tally = Tally()
        failed_seed = run_rounds(minutes, options.examples, tally, tally_path)
    for name, count in sorted(tally.fired.items()):
        print(f"{count:10}  {name}")
    print(f"{tally.examples} examples of the volume machine ran to their end")
    if failed_seed is not None:
        print(f"failed; replay it with: {replay(failed_seed, options.examples)}", file=sys.stderr)
        return 1
    return 0 if tally.examples >= options.examples else 1


def run_rounds(minutes: float, examples: int, tally: Tally, tally_path: Path) -> int | None:
    """Rounds until the time is up or the examples have run; the seed of the round that failed, or None."""
    begun = time.monotonic()
    rounds = 0
    while (left := minutes - (time.monotonic() - begun) / 60) > 0 and not (examples and tally.examples >= examples):
        seed, rounds = secrets.randbelow(2**32), rounds + 1
        goal = f"{tally.examples} of {examples} examples" if examples else f"{left:.1f} min left"
        print(f"round {rounds}, seed {seed}, {goal}", flush=True)
        environment = {**os.environ, VARIABLE: str(tally_path)}
        if examples:
            environment["SILTSTONE_SIM_EXAMPLES"] = str(min(ROUND_EXAMPLES, examples - tally.examples))
        command = [sys.executable, "-m", "pytest", "-q", "-o", "timeout=0", "--hypothesis-profile=soak"]
        target = MACHINE if examples else "tests/stateful"
        before = tally.examples
        done = subprocess.run([*command, f"--hypothesis-seed={seed}", target], cwd=TREE, env=environment, check=False)
        tally.read(tally_path)
        if done.returncode:
            return seed
        if examples and tally.examples == before:
            raise SystemExit("a round passed in which no example ran")
    return None


def replay(seed: int, examples: int) -> str:
    """The command that runs a round again."""
    if examples:
        return (
            f"SILTSTONE_SIM_EXAMPLES={ROUND_EXAMPLES} .venv/bin/pytest {MACHINE} -o timeout=0"
            f" --hypothesis-profile=soak --hypothesis-seed={seed}"
        )
    return f"make sim SEED={seed} PROFILE=soak"


if __name__ == "__main__":
    sys.exit(main())
