"""Programs that people run, on the mount: a database under a killed daemon, a virtual environment, a build."""

from __future__ import annotations

import random
import shutil
import sqlite3
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from sim.mounted import mounted

WRITER = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("pragma journal_mode = " + sys.argv[2])
database.execute("pragma synchronous = extra")
database.execute("pragma cache_size = 20")
database.execute("create table if not exists pairs (number integer primary key, one blob, two blob)")
(number,) = database.execute("select coalesce(max(number), 0) from pairs").fetchone()
while True:
    number += 1
    value = (number % 251).to_bytes() * (number * 37 % 5000)
    database.execute("begin immediate")
    database.execute("insert into pairs values (?, ?, ?)", (number, value, b""))
    database.execute("update pairs set two = ? where number = ?", (value, number))
    database.execute("update pairs set one = two, two = one where number = ?", (1 + number * 7919 % number,))
    database.execute("commit")
    print(number, flush=True)
"""
"""Adds rows whose two values are equal, each in one transaction, and tells the number of each that is committed.

"extra": with "full" SQLite does not wait until the removal of its journal, which is the commit, is durable.
"""


@pytest.mark.parametrize("mode", ["delete", "truncate", "persist", "wal"])
def test_a_database_keeps_what_it_committed_when_the_daemon_is_killed(tmp_path: Path, mode: str) -> None:
    rng = random.Random(mode)
    with mounted(tmp_path) as volume:
        file = volume.directory / "database"
        for _ in range(3):
            writer = subprocess.Popen(
                [sys.executable, "-c", WRITER, file, mode], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            assert writer.stdout is not None
            committed = 0
            for _ in range(rng.randrange(20, 120)):
                committed = int(writer.stdout.readline())
            volume.kill()
            # What it told before it met the dead mount was committed, too.
            for line in writer.stdout.read().split(b"\n")[:-1]:
                committed = int(line)
            assert writer.wait() != 0
            writer.stdout.close()
            volume.start()
            database = sqlite3.connect(file)
            assert database.execute("pragma integrity_check").fetchall() == [("ok",)]
            assert database.execute("select count(*), max(number) from pairs where one = two").fetchone() in (
                (committed, committed),
                (committed + 1, committed + 1),
            )
            database.close()


def test_two_programs_share_a_database(tmp_path: Path) -> None:
    with mounted(tmp_path) as volume:
        for mode in ("delete", "wal"):
            file = volume.directory / mode
            database = sqlite3.connect(file)
            database.execute(f"pragma journal_mode = {mode}")
            database.execute("create table counts (number integer)")
            database.execute("insert into counts values (0)")
            database.commit()
            program = (
                "import sqlite3, sys\n"
                "database = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)\n"
                "for _ in range(50): database.execute('update counts set number = number + 1')\n"
            )
            workers = [subprocess.Popen([sys.executable, "-c", program, file]) for _ in range(3)]
            assert [worker.wait() for worker in workers] == [0, 0, 0]
            assert database.execute("select number from counts").fetchone() == (150,)
            database.close()


@pytest.mark.skipif(shutil.which("make") is None or shutil.which("cc") is None, reason="needs make and a C compiler")
def test_make_builds_what_is_old_and_nothing_else(tmp_path: Path) -> None:
    with mounted(tmp_path) as volume:
        here = volume.directory
        parts = [f"part{number}" for number in range(8)]
        for number, part in enumerate(parts):
            (here / f"{part}.c").write_text(f"int {part}(void) {{ return {number}; }}\n")
        calls = " + ".join(f"{part}()" for part in parts)
        declarations = "".join(f"int {part}(void);\n" for part in parts)
        (here / "main.c").write_text(
            f'#include <stdio.h>\n{declarations}int main(void) {{ printf("%d\\n", {calls}); return 0; }}\n'
        )
        objects = " ".join(f"{part}.o" for part in (*parts, "main"))
        (here / "Makefile").write_text(
            f"program: libparts.a main.o\n\t$(CC) -o $@ main.o -L. -lparts\n"
            f"libparts.a: {objects}\n\tar rcs $@ $(filter-out main.o,$^)\n"
        )

        def make() -> str:
            return subprocess.run(["make", "-j3", "-C", here], check=True, capture_output=True, text=True).stdout

        make()
        assert subprocess.run([here / "program"], check=True, capture_output=True).stdout == b"28\n"
        assert "up to date" in make()
        (here / "part3.c").write_text("int part3(void) { return 103; }\n")
        said = make()
        assert "part3.c" in said and "part4.c" not in said
        assert subprocess.run([here / "program"], check=True, capture_output=True).stdout == b"128\n"


def test_a_virtual_environment_on_the_mount_runs_and_pip_installs_into_it(tmp_path: Path) -> None:
    with mounted(tmp_path) as volume:
        environment = volume.directory / "environment"
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        (environment / "moved").symlink_to("bin")
        said = subprocess.run(
            [environment / "moved" / "python", "-m", "pip", "--version"], check=True, capture_output=True, text=True
        ).stdout
        assert str(environment) in said
        wheel = volume.directory / "example-1.0-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as file:
            file.writestr("example/__init__.py", "answer = 42\n")
            file.writestr("example-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: example\nVersion: 1.0\n")
            file.writestr("example-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            file.writestr("example-1.0.dist-info/RECORD", "")
        python = environment / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "-q", "--no-index", wheel], check=True)
        done = subprocess.run([python, "-c", "import example; print(example.answer)"], check=True, capture_output=True)
        assert done.stdout == b"42\n"
        wheel.unlink()
        shutil.rmtree(environment)
        assert list(volume.directory.iterdir()) == []
