"""What benches of one figure document have in common: their options, a folder of their own, and how they print."""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path


def options_of(description: str | None, *, files_quick: int) -> argparse.ArgumentParser:
    """The options that they all have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{files_quick} files, under a minute")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument("--folder", default=None, help="where to write (default: a new temporary directory)")
    parser.add_argument("--files", type=int, default=0, help="how many files")
    parser.add_argument("--bytes", type=int, default=1024, help="bytes of each file")
    return parser


@contextlib.contextmanager
def folder_for(bench: str, above: str | None, *, keep: bool = False) -> Iterator[Path]:
    """A new directory, which goes when the context ends unless it is to be kept."""
    folder = Path(tempfile.mkdtemp(prefix=f"{bench}.", dir=above))
    try:
        yield folder
    finally:
        if keep:
            print(f"kept {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder)


def show(bench: str, result: Mapping[str, object], *, as_json: bool) -> None:
    """Print the figures."""
    if as_json:
        print(json.dumps({"bench": bench, "results": [result]}))
        return
    for name, value in result.items():
        print(f"{name:32} {value}")
