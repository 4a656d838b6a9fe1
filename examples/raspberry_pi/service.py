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


class StopSignal(threading.Event):
    """Set by SIGTERM and Ctrl-C, so that the last frame ends and state is written.

    exit_code: of the program then; 143 where SIGTERM asked for its end, as shells say it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.exit_code = 0
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._asked)

    def _asked(self, number: int, _: object) -> None:
        self.exit_code = 128 + number if number == signal.SIGTERM else 0
        self.set()
