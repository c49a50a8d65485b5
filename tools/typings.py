"""Rebuild the git-ignored typings/siltstone: links that show the type checkers what package_dir in setup.cfg maps.

mypy and pyright do not follow the mapping of top-level folders to sub-packages; they follow links.
"""

from __future__ import annotations

import configparser
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Leave exactly the links that setup.cfg asks for; a second run changes nothing."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    package_dir = dict(line.split(" = ") for line in config["options"]["package_dir"].split("\n") if line)
    top = ROOT / "typings" / "siltstone"
    wanted = {top / entry.name: entry for entry in (ROOT / package_dir.pop("siltstone")).iterdir()}
    wanted |= {ROOT / "typings" / package.replace(".", "/"): ROOT / folder for package, folder in package_dir.items()}
    wanted = {link: target for link, target in wanted.items() if target.name != "__pycache__"}
    if top.is_dir() and {link: link.resolve() for link in top.iterdir()} == wanted:
        return
    shutil.rmtree(top, ignore_errors=True)
    top.mkdir(parents=True)
    for link, target in wanted.items():
        link.symlink_to(Path("../..") / target.relative_to(ROOT))


if __name__ == "__main__":
    main()
