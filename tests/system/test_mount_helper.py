"""mount(8) and /etc/fstab: the helper as mount(8) calls it, and mount(8) itself in a mount namespace of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sim.mounted import SILTSTONE, is_mounted

HELPER = Path(sys.executable).with_name("mount.siltstone")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A volume, ended however the test ends."""
    subprocess.run([*SILTSTONE, "init", tmp_path / "home"], check=True, capture_output=True)
    (tmp_path / "mnt").mkdir()
    yield tmp_path / "home"
    subprocess.run([*SILTSTONE, "stop", tmp_path / "home"], capture_output=True)


def helper(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([HELPER, *arguments], capture_output=True, text=True)


def test_the_helper_mounts_as_mount_asks_it_to(home: Path) -> None:
    directory = home.with_name("mnt")
    assert helper(f"siltstone:{home}", directory, "-f", "-o", "rw,relatime").returncode == 0
    assert not is_mounted(directory)
    wrong = helper(home, directory, "-o", "rw,bogus")
    assert (wrong.returncode, wrong.stderr) == (1, "mount.siltstone: mount option 'bogus' is unknown\n")
    done = helper(f"siltstone:{home}", directory, "-s", "-v", "-n", "-o", "rw,bogus,relatime")
    assert (done.returncode, done.stdout) == (0, f"ready mount {directory}\n")
    (directory / "file").write_bytes(b"x")
    again = helper(home, directory, "-o", "rw")
    assert again.returncode == 32 and again.stderr.count("\n") == 1
    subprocess.run(["umount", directory], check=True)
    assert helper(home.with_name("nothing"), directory).returncode == 32


SCRIPT = """
set -e
mkdir "$1/sbin"
ln -s "$2" "$1/sbin/mount.siltstone"
ln -s "$2" "$1/sbin/mount.fuse.siltstone"
mount -t overlay overlay -o "lowerdir=$1/sbin:/usr/sbin" /usr/sbin
mkdir "$1/one" "$1/two" "$1/three"
echo "siltstone:$1/home $1/one siltstone rw,noexec,relatime,nofail 0 0" > "$1/fstab"
echo "siltstone:$1/home $1/two fuse.siltstone ro,_netdev,x-systemd.requires-mounts-for=/ 0 0" >> "$1/fstab"
mount -a --fstab "$1/fstab"
mount -t fuse.siltstone -o umask=077 "$1/home" "$1/three"
echo here > "$1/one/file"
sleep 1.5
cat "$1/two/file" "$1/three/file"
mount -a --fstab "$1/fstab"
if echo more > "$1/two/file"; then exit 3; fi
mount -o remount,ro "$1/one"
if echo more > "$1/one/file"; then exit 4; fi
findmnt -n -o FSTYPE,OPTIONS "$1/one"
umount "$1/three" "$1/two" "$1/one"
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has mount namespaces to mount in")
def test_mount_and_fstab_find_the_helper(home: Path) -> None:
    script = ["unshare", "--mount", "sh", "-c", SCRIPT, "sh", str(home.parent), str(HELPER)]
    done = subprocess.run(script, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + (home / "daemon.log").read_text()
    shown = done.stdout.splitlines()
    assert shown[:2] == ["here", "here"]
    assert "fuse.siltstone" in shown[2] and "noexec" in shown[2] and "ro," in shown[2]
