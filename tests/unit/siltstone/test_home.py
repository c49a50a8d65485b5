"""HOME: settings are read back or refused, and a volume has one owner."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from siltstone.config import DiskConfig, VolumeConfig
from siltstone.errors import ConfigInvalid, Unavailable, VolumeBusy
from siltstone.home import Home, write_whole


def some_config() -> VolumeConfig:
    disks = tuple(DiskConfig(disk_id=index, path=f"/disks/{index}", uuid=f"{index:032x}") for index in range(6))
    return VolumeConfig(uuid="ab" * 16, data_units=4, parity_units=2, disks=disks)


def test_settings_come_back_as_they_were_saved(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.save_config(some_config())
    assert home.load_config() == some_config()
    assert [entry.name for entry in tmp_path.iterdir()] == ["volume.json"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not a volume's settings"),
        (b"{}", "not a volume's settings"),
        (b"\xff\xfe", "not a volume's settings"),
        (b'{"uuid": "x", "data_units": 4, "parity_units": 2, "disks": [], "colour": 1}', "colour"),
        (b'{"uuid": "x", "data_units": 4, "parity_units": 2, "disks": []}', "0 disks"),
    ],
)
def test_settings_that_are_wrong_are_refused_with_the_reason(tmp_path: Path, text: bytes, message: str) -> None:
    (tmp_path / "volume.json").write_bytes(text)
    with pytest.raises(ConfigInvalid, match=message):
        Home(tmp_path).load_config()


def test_a_home_that_is_absent_or_empty_or_a_file_is_refused_each_in_its_own_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigInvalid, match="does not exist"):
        Home(tmp_path / "absent").load_config()
    with pytest.raises(ConfigInvalid, match="holds no volume"):
        Home(tmp_path).load_config()
    with pytest.raises(ConfigInvalid, match="is not a directory"):
        Home(tmp_path / "file").load_config()


def test_a_second_process_is_told_the_pid_of_the_owner_and_may_own_after_it(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with home.owned():
        assert pid_told_to_another_process(tmp_path) == os.getpid()
        with pytest.raises(VolumeBusy) as caught, home.owned():
            pass
        assert caught.value.pid == os.getpid()
        assert str(os.getpid()) in str(caught.value)
    assert pid_told_to_another_process(tmp_path) == 0


TRY_TO_OWN = """
import sys
from siltstone.errors import VolumeBusy
from siltstone.home import Home
try:
    with Home(sys.argv[1]).owned():
        print(0)
except VolumeBusy as error:
    print(error.pid)
"""


def pid_told_to_another_process(path: Path) -> int:
    """The owner's pid as another process learns it, 0 if that one could own the volume."""
    command = [sys.executable, "-c", TRY_TO_OWN, str(path)]
    return int(subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=60).stdout)


def test_a_home_that_cannot_be_written_is_an_error_of_one_line(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="cannot open"), Home(tmp_path / "absent").owned():
        pass
    with pytest.raises(Unavailable, match="cannot write"):
        write_whole(tmp_path / "absent" / "file", b"")


def test_a_file_is_replaced_whole_with_the_mode_that_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    (tmp_path / "file.new").write_text("left over from a crash")
    write_whole(path, b"new", mode=0o600)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_volume_that_something_may_still_be_written_to_stays_owned_until_the_process_is_gone(tmp_path: Path) -> None:
    script = (
        "import sys; from siltstone.home import Home\n"
        "with Home(sys.argv[1]).owned() as ownership: ownership.keep()\n"
        "print('kept', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-P", "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "kept\n"
        with pytest.raises(VolumeBusy) as caught, Home(tmp_path).owned():
            raise AssertionError("not reached")
        assert caught.value.pid == process.pid
        process.stdin.close()
        process.wait()
    with Home(tmp_path).owned():
        pass


@pytest.mark.parametrize("seconds", [-1.0, 0.0, 0.9, 3601.0, float("inf"), float("nan")])
def test_a_time_limit_that_makes_no_sense_is_refused(seconds: float) -> None:
    with pytest.raises(ConfigInvalid, match="disk_timeout"):
        msgspec.structs.replace(some_config(), disk_timeout=seconds).check()
    msgspec.structs.replace(some_config(), disk_timeout=1.0).check()
