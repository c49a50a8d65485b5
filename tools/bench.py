"""`make bench`: run every benchmark in bench/ with --quick, one after the other, and print their ratios.

Each is a command of its own (`python bench/NAME.py [--quick] [--json]`); with --json it prints one document
``{"bench": NAME, "results": [{...}]}``. Numbers whose name holds "ratio" are shown here, each beside what it is about.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

BENCH = Path(__file__).resolve().parent.parent / "bench"


def main() -> int:
    """Run them; exit status 1 when one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="which (default: all)")
    parser.add_argument("--full", action="store_true", help="take the time that exact figures need")
    parser.add_argument("--json", action="store_true", help="print the documents of all, as one JSON list")
    options = parser.parse_args()
    names = options.names or sorted(path.stem for path in BENCH.glob("*.py"))
    documents, failed = [], []
    for index, name in enumerate(names):
        print(f"[{index + 1}/{len(names)}] bench/{name}.py", file=sys.stderr, flush=True)
        command = [sys.executable, str(BENCH / f"{name}.py"), "--json", *([] if options.full else ["--quick"])]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            failed.append(name)
            continue
        documents.append(json.loads(done.stdout))
        if not options.json:
            print_ratios(documents[-1])
    if options.json:
        print(json.dumps(documents, indent=1))
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def print_ratios(document: dict[str, Any]) -> None:
    """A line for each result: what it is about, then every ratio of it."""
    for result in document["results"]:
        about = " ".join(str(value) for value in result.values() if isinstance(value, str))
        sizes = " ".join(f"{name}={value}" for name, value in result.items() if is_setting(name, value))
        ratios = "  ".join(f"{name} {value:.2f}" for name, value in result.items() if "ratio" in name and value)
        print(f"{document['bench']:16} {about} {sizes:32} {ratios}")


def is_setting(name: str, value: object) -> bool:
    """Whether a number says what was measured, and not how fast it was."""
    return isinstance(value, int) and name in ("unit_bytes", "size_bytes", "writers", "clients", "replicas", "entries")


if __name__ == "__main__":
    sys.exit(main())
