"""`make bench`: run every benchmark in bench/ with --quick, one after the other, and print their ratios.

Each is a command of its own (`python bench/NAME.py [--quick] [--json]`). What it measures and what its ratios are over,
its first lines say; bench/README.md says how to read them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BENCH = Path(__file__).resolve().parent.parent / "bench"
SETTINGS = {"unit_bytes", "stripe_bytes", "size_bytes", "object_bytes", "in_flight", "clients", "connections"}


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
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            failed.append(name)
            print(done.stderr, file=sys.stderr, end="")
            continue
        documents.append(json.loads(done.stdout))
        if not options.json:
            print_ratios(name, documents[-1])
    if options.json:
        print(json.dumps(documents, indent=1))
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def print_ratios(name: str, document: dict[str, Any]) -> None:
    """A line for each thing measured that has a ratio: what it is, then its ratios."""
    for about, ratios in found_ratios(document):
        shown = "  ".join(f"{over} {ratio:.2f}" for over, ratio in ratios.items())
        print(f"{name:13} {about:42} {shown}", flush=True)


def found_ratios(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, float]]]:
    """Pairs of what was measured and its ratios, from any of the forms that documents take.

    ``{"results": [{...}]}``, ``{"what it is": {... "ratio": 0.8}}``, ``{"ratios": {"what it is": 0.8}}``.
    """
    for about, ratio in document.get("ratios", {}).items():
        yield about.replace("_", " "), {"ratio": ratio}
    results = document.get("results")
    if isinstance(results, list):
        named = [(describe(result), result) for result in results]
    else:
        named = [(about, result) for about, result in document.items() if isinstance(result, dict)]
    for about, result in named:
        ratios = {over: ratio for over, ratio in result.items() if over.startswith("ratio") and ratio}
        if ratios:
            yield about, ratios


def describe(result: dict[str, Any]) -> str:
    """What a result is about: its texts, and the numbers that are settings."""
    texts = [str(value) for value in result.values() if isinstance(value, str)]
    settings = [f"{name} {value:,}" for name, value in result.items() if name in SETTINGS]
    return ", ".join(texts + settings)


if __name__ == "__main__":
    sys.exit(main())
