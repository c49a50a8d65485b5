"""Tells systemd that a service is ready (sd_notify(3), ``Type=notify``), where it wants to know."""

from __future__ import annotations

import contextlib
import os
import socket


def notify(state: str) -> None:
    """Send a word like ``READY=1`` to whoever started this process, if that asked for it. Never fails."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending:
        sending.connect(address)
        sending.send(state.encode())
