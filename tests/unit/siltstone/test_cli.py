"""The command line: help everywhere, one line for every error, never a traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from siltstone.cli import main
from siltstone.config import DiskConfig, VolumeConfig
from siltstone.home import Home
from siltstone.keys import KeyRing

COMMANDS = [
    ["init"],
    ["import"],
    ["serve"],
    ["mount"],
    ["umount"],
    ["s3"],
    ["key"],
    ["key", "add"],
    ["key", "list"],
    ["key", "remove"],
    ["status"],
    ["settle"],
    ["scrub"],
    ["fsck"],
    ["stop"],
]


def outcome(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a command."""
    try:
        status = main(arguments)
    except SystemExit as error:
        status = int(error.code or 0)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def some_home(path: Path) -> Home:
    """A HOME with settings whose disks are not there."""
    home = Home(path)
    disks = tuple(DiskConfig(disk_id=index, path=f"{path}/absent{index}", uuid=f"{index:032x}") for index in range(6))
    home.save_config(VolumeConfig(uuid="ab" * 16, data_units=4, parity_units=2, disks=disks))
    return home


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_a_help_with_an_example(capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    status, output, _ = outcome(capsys, *command, "--help")
    assert status == 0
    assert f"example:\n  siltstone {' '.join(command)}" in output


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["frobnicate"],
        ["init"],
        ["serve", "--frobnicate"],
        ["key"],
        ["key", "frobnicate"],
        ["s3", "HOME"],
        ["mount", "HOME"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_told_in_one_line_with_status_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    status, output, errors = outcome(capsys, *arguments)
    assert (status, output) == (2, "")
    assert errors.startswith("siltstone: ")
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["status", "ABSENT"],
        ["settle", "ABSENT"],
        ["scrub", "ABSENT"],
        ["fsck", "ABSENT"],
        ["stop", "ABSENT"],
        ["serve", "ABSENT"],
        ["mount", "ABSENT", "DIR"],
        ["umount", "ABSENT"],
        ["s3", "ABSENT", "--listen", "127.0.0.1:0"],
        ["s3", "ABSENT", "--listen", "nowhere"],
        ["serve", "ABSENT", "--s3", "127.0.0.1:99999"],
        ["key", "add", "ABSENT"],
        ["key", "list", "ABSENT"],
        ["key", "remove", "ABSENT", "KEY"],
        ["key", "remove", "ABSENT"],
        ["init", "/proc/nowhere/home"],
        ["init", "HOME", "--ec", "4-2"],
        ["init", "HOME", "--disk-size", "lots"],
        ["init", "HOME", "--disk", "one"],
    ],
    ids=" ".join,
)
def test_what_cannot_be_done_is_told_in_one_line_with_status_1(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    status, output, errors = outcome(capsys, *arguments)
    assert (status, output) == (1, "")
    assert errors.startswith("siltstone: ")
    assert "internal error" not in errors
    assert errors.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_keys_are_managed_without_the_disks(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    home = some_home(tmp_path)
    status, output, _ = outcome(capsys, "key", "add", str(tmp_path), "--owner", "alice", "--json")
    assert status == 0
    key = json.loads(output)
    assert KeyRing.load(home.keys_file).lookup(key["access"]) is not None
    _, output, _ = outcome(capsys, "key", "list", str(tmp_path))
    assert output == f"{key['access']}\talice\talice\n"
    assert key["secret"] not in output
    assert outcome(capsys, "key", "remove", str(tmp_path), key["access"])[0] == 0
    status, _, errors = outcome(capsys, "key", "remove", str(tmp_path), key["access"])
    assert status == 1
    assert "there is no access key" in errors


def test_a_volume_in_use_by_another_process_is_refused_with_its_pid(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    home = some_home(tmp_path)
    with home.owned():
        status, _, errors = outcome(capsys, "key", "list", str(tmp_path))
    assert status == 1
    assert "in use by process" in errors


def test_a_volume_that_nobody_serves_cannot_be_stopped(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    some_home(tmp_path)
    status, _, errors = outcome(capsys, "stop", str(tmp_path))
    assert status == 1
    assert "nobody serves" in errors


def test_a_bug_is_one_line_too(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(path: Path) -> KeyRing:
        raise ZeroDivisionError("boom")

    some_home(tmp_path)
    monkeypatch.setattr(KeyRing, "load", broken)
    status, _, errors = outcome(capsys, "key", "list", str(tmp_path))
    assert status == 1
    assert "internal error, please report it: ZeroDivisionError: boom" in errors
    assert errors.count("\n") == 1


def test_without_assertions_the_command_refuses_to_run() -> None:
    command = [sys.executable, "-P", "-O", "-m", "siltstone", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "-O" in done.stderr


def test_a_reader_that_leaves_is_no_error_that_anybody_sees(tmp_path: Path) -> None:
    command = f"{sys.executable} -P -m siltstone --help | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
