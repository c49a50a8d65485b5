"""A mount leads to its HOME, and only a Siltstone mount does."""

from __future__ import annotations

from pathlib import Path

import pytest

from siltstone.errors import Refused
from siltstone.fuse import mountpoint
from siltstone.home import Home
from siltstone.mounts import find_siltstone, home_of, source_of

MOUNTINFO = r"""
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
97 22 0:43 / /mnt/a\040b rw,nosuid shared:50 master:3 - fuse.siltstone siltstone:/home/me/my\040volume rw,user_id=0
98 22 0:44 / /mnt/c rw - fuse.sshfs host: rw
""".lstrip()


def test_only_a_siltstone_mount_is_found_and_leads_to_its_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mountinfo").write_text(MOUNTINFO)
    monkeypatch.setattr(mountpoint, "MOUNTINFO", tmp_path / "mountinfo")
    mounted = find_siltstone("/mnt/a b")
    assert home_of(mounted).path == Path("/home/me/my volume")
    assert source_of(home_of(mounted)) == mounted.source
    for other in ("/mnt/c", "/", "/mnt/absent"):
        with pytest.raises(Refused, match="not a mount of a Siltstone volume"):
            find_siltstone(other)


def test_a_mount_is_found_through_a_symbolic_link_above_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    source = source_of(Home("/home/v"))
    line = f"97 22 0:43 / {tmp_path.resolve()}/real/m rw - fuse.siltstone {source} rw\n"
    (tmp_path / "mountinfo").write_text(line)
    monkeypatch.setattr(mountpoint, "MOUNTINFO", tmp_path / "mountinfo")
    assert find_siltstone(str(tmp_path / "link" / "m")).source == source
