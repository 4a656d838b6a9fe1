"""What a service owes systemd: say that it is well, and stop when asked to."""

from __future__ import annotations

import os
import signal
import socket
import threading


def notify(text: str) -> None:
    """Tell systemd, such as READY=1 or WATCHDOG=1 (sd_notify); nothing outside a service."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # an abstract socket
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.sendto(text.encode(), address)


def stop_signal() -> threading.Event:
    """An event that SIGTERM and Ctrl-C set, so that the last frame ends and state is written."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    return stopping
