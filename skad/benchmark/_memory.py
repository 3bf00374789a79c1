"""How much memory a run takes."""

import ctypes
import gc
import os
from threading import Event, Thread

_INTERVAL = 0.01  # seconds


class MemoryWatch:
    """Sample the resident memory of this process while a block of code runs.

    Attributes
    ----------
    rise_mib : float
        The highest sample less the first, in MiB; NaN where the system doesn't tell.
        What the process had freed goes back to the system before, with glibc at least;
        elsewhere it may be used again unseen.
    """

    def __init__(self):
        self.rise_mib = float("nan")
        self._read = _reader()

    def __enter__(self):
        if self._read is not None:
            _give_back()
            self._first = self._peak = self._read()
            self._stop = Event()
            self._thread = Thread(target=self._sample, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *failure):
        if self._read is not None:
            self._stop.set()
            self._thread.join()
            self._peak = max(self._peak, self._read())
            self.rise_mib = (self._peak - self._first) / 2**20

    def _sample(self):
        while not self._stop.wait(_INTERVAL):
            self._peak = max(self._peak, self._read())


def _give_back():
    """Return freed memory to the system, so that its use shows as a rise."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):  # no glibc
        pass


def _reader():
    """Return a function that tells the resident bytes; None where there is none."""
    try:
        import psutil
    except ImportError:
        return _read_statm if os.path.exists("/proc/self/statm") else None
    process = psutil.Process()
    return lambda: process.memory_info().rss


def _read_statm():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
