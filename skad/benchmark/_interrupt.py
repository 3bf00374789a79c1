"""Ctrl-C must stop a comparison, whatever a detector makes of it."""

import signal
from contextlib import contextmanager
from threading import current_thread, main_thread


@contextmanager
def interrupts_end_it():
    """Raise KeyboardInterrupt at the end of a block in which one came.

    skorch takes an interrupt for the wish to end training early, and says nothing: a
    network that is half trained would be compared, and kept, as if it were whole.
    """
    before = signal.getsignal(signal.SIGINT)
    if current_thread() is not main_thread() or not callable(before):
        yield
        return
    came = []

    def note(number, frame):
        came.append(number)
        before(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            raise KeyboardInterrupt
