"""The house rules that a machine can check: who may import whom, who may touch the world, what every module tells."""

from __future__ import annotations

import ast
import configparser
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent

LAYERS = {"engine": 1, "meta": 2, "core": 3, "fuse": 4, "s3gw": 4}
VOCABULARY = {"__init__", "types", "errors", "limits", "ports", "config"}
COMMAND_LINE = 5

WORLD = {"time", "os", "random", "socket", "threading", "secrets", "subprocess", "tempfile", "shutil", "mmap", "select"}
"""Modules that reach out of the process, or make two runs differ."""

MAY_TOUCH_THE_WORLD = {
    "engine/disk/": "the implementations of Disk, Clock, Random and Workers",
    "meta/store/lmdb_backing.py": "LMDB is a directory of the host",
    "meta/store/writer_thread.py": "the thread that LMDB commits in",
    "fuse/": "the socket of the front-end is the kernel's",
    "s3gw/server.py": "the sockets of the front-end",
    "s3gw/connection.py": "the socket of one client",
    "s3gw/tls.py": "the same, encrypted, and the certificate's files",
}


class Module(NamedTuple):
    """A module of the product: where it is, and what it says."""

    path: str
    tree: ast.Module

    @property
    def layer(self) -> int:
        """0 for the vocabulary, 5 for the command line."""
        folder, _, rest = self.path.partition("/")
        if folder == "siltstone":
            return 0 if rest.removesuffix(".py") in VOCABULARY else COMMAND_LINE
        return LAYERS[folder]

    @property
    def imports(self) -> Iterator[str]:
        """Full names of the modules that this one imports."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (name.name for name in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{self.path}:{node.lineno} has a relative import"
                assert node.module is not None
                yield node.module
                yield from (f"{node.module}.{name.name}" for name in node.names)


def modules() -> list[Module]:
    folders = ["siltstone", *LAYERS]
    paths = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return [Module(str(path.relative_to(ROOT)), ast.parse(path.read_text())) for path in paths]


MODULES = modules()


def layer_of_import(name: str) -> int | None:
    """The layer of an imported module, None when it is none of ours."""
    head, _, rest = name.partition(".")
    if head != "siltstone":
        return None
    first = rest.partition(".")[0]
    if first in LAYERS:
        return LAYERS[first]
    return 0 if not first or first in VOCABULARY or first.startswith("__") else COMMAND_LINE


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.path)
def test_imports_point_downwards_only(module: Module) -> None:
    for name in module.imports:
        layer = layer_of_import(name)
        if layer is None or layer < module.layer:
            continue
        own_folder = module.path.partition("/")[0]
        same_folder = own_folder == "siltstone" or name.split(".")[1] == own_folder
        assert layer == module.layer and same_folder, f"{module.path} imports {name}, which is above or beside it"


@pytest.mark.parametrize("module", [module for module in MODULES if module.layer < COMMAND_LINE], ids=lambda m: m.path)
def test_only_the_edges_touch_the_world(module: Module) -> None:
    if module.path.startswith(tuple(MAY_TOUCH_THE_WORLD)):
        return
    touched = WORLD & {name.partition(".")[0] for name in module.imports}
    assert not touched, f"{module.path} imports {', '.join(sorted(touched))}: take it from siltstone/ports.py"


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.path)
def test_every_module_says_what_it_is_for(module: Module) -> None:
    assert ast.get_docstring(module.tree), f"{module.path} has no docstring"


@pytest.mark.parametrize("path", MAY_TOUCH_THE_WORLD)
def test_every_exception_is_still_needed(path: str) -> None:
    excepted = [module for module in MODULES if module.path.startswith(path)]
    assert any(WORLD & {name.partition(".")[0] for name in module.imports} for module in excepted), path


def test_the_packages_in_setup_cfg_are_the_packages_in_the_tree() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = config["options"]["packages"].split()
    found = {str(Path(module.path).parent) for module in MODULES}
    names = {"siltstone" if path == "siltstone" else "siltstone." + path.replace("/", ".") for path in found}
    assert sorted(listed) == sorted(name.replace("siltstone.siltstone.", "siltstone.") for name in names)


def test_no_folder_or_file_is_a_junk_drawer() -> None:
    drawers = {"utils", "util", "common", "helpers", "helper", "misc", "manager"}
    names = {part for module in MODULES for part in Path(module.path).with_suffix("").parts}
    assert not names & drawers
