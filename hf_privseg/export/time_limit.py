"""A limit of time for work that may not end."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_AGAIN = 10.0  # seconds after which it is raised once more, should somebody catch the first
_LEAST = 1e-3  # of a timer, for which 0 is none


@contextmanager
def time_limit(seconds: float, what: str) -> Iterator[None]:
    """TimeoutError after so many seconds, which says what took longer.

    There is no limit in other threads than the main one, and none where Python has no such timer (Windows). A timer of
    the caller's own stands still meanwhile; it is given back with what is left of it.
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return
    is_over, start, timer = False, time.monotonic(), (0.0, 0.0)

    def stop(*_: object) -> None:
        if not is_over:  # an alarm may come late
            raise TimeoutError(f"{what} took longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    try:
        timer = signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN)
        yield
    finally:
        is_over = True
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before or signal.SIG_DFL)
        if timer[0]:
            signal.setitimer(signal.ITIMER_REAL, max(timer[0] - (time.monotonic() - start), _LEAST), timer[1])
