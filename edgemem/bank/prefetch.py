"""One thread that reads ahead; only the newest wish counts."""

from __future__ import annotations

import threading
from collections.abc import Callable

Wish = tuple[int, int]


class Prefetcher:
    """Runs `read` for the newest wish on a thread of its own.

    read: must not raise for damaged files; should return early while another wish is `waiting`.
    """

    def __init__(self, read: Callable[[Wish], None]) -> None:
        self._read = read
        self._changed = threading.Condition()
        self._wish: Wish | None = None
        self._busy = self._closed = False
        self._thread = threading.Thread(target=self._run, name="edgemem-prefetch", daemon=True)
        self._thread.start()

    def ask(self, wish: Wish) -> None:
        """Replace the wish that waits, if any."""
        with self._changed:
            self._wish = wish
            self._changed.notify_all()

    def waiting(self) -> bool:
        """Whether a newer wish, or the end, is waiting."""
        return self._closed or self._wish is not None

    def finish(self) -> None:
        """Wait until nothing is left to read."""
        with self._changed:
            self._changed.wait_for(lambda: self._wish is None and not self._busy)

    def close(self) -> None:
        """End the thread; what it is reading is read to the end of its row."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(self.waiting)
                if self._closed:
                    return
                wish, self._wish, self._busy = self._wish, None, True
            if wish is not None:
                self._read(wish)
