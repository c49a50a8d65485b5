"""The directory of a mount: what is refused, and what the kernel's list of mounts says; what a mount logs."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

import pytest

from siltstone.errors import Refused
from siltstone.fuse import mountpoint
from siltstone.fuse.mount import is_worth_a_line, kernel_options
from siltstone.fuse.options import DEFAULTS, parse_options

MOUNTINFO = r"""25 30 0:23 / /sys rw,nosuid shared:7 - sysfs sysfs rw
30 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
41 30 0:39 / /mnt/with\040space\134 rw,noatime shared:2 - fuse.siltstone siltstone rw,user_id=0
42 30 0:40 / /mnt/x rw - tmpfs tmpfs rw
43 42 0:41 / /mnt/x rw - fuse.siltstone siltstone:/home rw
"""


def test_the_list_of_mounts_is_read_with_its_escapes() -> None:
    mounts = mountpoint.parse_mountinfo(MOUNTINFO)
    assert mounts[2] == mountpoint.Mounted("/mnt/with space\\", "0:39", "fuse.siltstone", "siltstone")
    assert len(mounts) == 5


def test_what_is_mounted_last_on_a_directory_is_what_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "mountinfo"
    file.write_text(MOUNTINFO)
    monkeypatch.setattr(mountpoint, "MOUNTINFO", file)
    found = mountpoint.find_mounted("/mnt/x")
    assert found is not None and found.device == "0:41"
    assert mountpoint.find_mounted("/mnt") is None


def test_a_missing_directory_a_file_and_a_full_directory_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="No such file"):
        mountpoint.prepare(str(tmp_path / "absent"))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Refused, match="not a directory"):
        mountpoint.prepare(str(tmp_path / "file"))
    with pytest.raises(Refused, match="not empty"):
        mountpoint.prepare(str(tmp_path))
    assert (tmp_path / "file").exists()


def test_a_machine_without_fuse_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(mountpoint, "DEVICE", str(tmp_path / "no-such-device"))
    (tmp_path / "mnt").mkdir()
    with pytest.raises(Refused, match="no-such-device does not exist"):
        mountpoint.prepare(str(tmp_path / "mnt"))


def test_options_say_what_is_mounted_and_root_mounts_for_everybody() -> None:
    assert kernel_options(DEFAULTS, "siltstone:/home", is_root=False) == {
        "default_permissions",
        "noatime",
        "subtype=siltstone",
        "fsname=siltstone:/home",
    }
    assert "allow_other" in kernel_options(DEFAULTS, "siltstone:/home", is_root=True)
    private = kernel_options(parse_options("allow_root,relatime,ro"), "siltstone:/home", is_root=True)
    assert {"allow_root", "ro"} < private and not {"allow_other", "noatime"} & private


@pytest.mark.parametrize(
    ("message", "number", "is_logged"),
    [
        ("fuse_release(): fuse_reply_* failed with %s", errno.ENOENT, False),
        ("fuse_release(): fuse_reply_* failed with %s", errno.EIO, True),
        ("fuse_setattr(): clock_gettime(CLOCK_REALTIME) failed with %s", errno.ENOENT, True),
    ],
)
def test_an_answer_that_nobody_waits_for_is_no_error(message: str, number: int, is_logged: bool) -> None:
    record = logging.LogRecord("pyfuse3", logging.ERROR, "", 0, message, (os.strerror(number),), None)
    assert is_worth_a_line(record) is is_logged
