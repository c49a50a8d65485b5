"""`make soak`: the stateful tests on new seeds until the time is up. A failure prints the seed to replay it with."""

from __future__ import annotations

import argparse
import secrets
import subprocess
import sys
import time


def main() -> int:
    """Run rounds; exit status 1 at the first failure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long")
    options = parser.parse_args()
    begun = time.monotonic()
    rounds = 0
    while (elapsed := time.monotonic() - begun) < options.minutes * 60:
        seed = secrets.randbelow(2**32)
        print(f"round {rounds + 1}, seed {seed}, {options.minutes - elapsed / 60:.1f} min left", flush=True)
        command = [sys.executable, "-m", "pytest", "-q", "-o", "timeout=0", "--hypothesis-profile=soak"]
        if subprocess.run([*command, f"--hypothesis-seed={seed}", "tests/stateful"], check=False).returncode:
            print(f"failed; replay it with: make sim SEED={seed} PROFILE=soak", file=sys.stderr)
            return 1
        rounds += 1
    print(f"{rounds} rounds passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
