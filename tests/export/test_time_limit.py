"""A limit of time: it is heeded, caught or not, and leaves the caller's signals as they were."""

import signal
import threading
import time

import pytest

from hf_privseg.export import time_limit as module
from hf_privseg.export.time_limit import time_limit

NO_TIMER = (0.0, 0.0)


@pytest.fixture(autouse=True)
def signals_are_given_back():
    before = signal.getsignal(signal.SIGALRM)
    yield
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == NO_TIMER


def test_it_is_raised_again_where_it_is_caught(monkeypatch):
    monkeypatch.setattr(module, "_AGAIN", 0.05)
    caught: list[TimeoutError] = []

    def stubborn():
        while len(caught) < 2:
            try:
                time.sleep(5)
            except TimeoutError as error:
                caught.append(error)
        raise caught[1]

    with pytest.raises(TimeoutError, match=r"^the work took longer than 0\.05 s$"), time_limit(0.05, "the work"):
        stubborn()


def test_work_that_ends_in_time_and_work_that_fails():
    with time_limit(100.0, "the work"):
        assert 99.0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 100.0
    with pytest.raises(ZeroDivisionError), time_limit(100.0, "the work"):
        _ = 1 / 0


def test_an_alarm_that_comes_late_does_nothing(monkeypatch):
    monkeypatch.setattr(signal, "setitimer", lambda *_: NO_TIMER)
    with time_limit(100.0, "the work"):
        stop = signal.getsignal(signal.SIGALRM)
        assert callable(stop)
        with pytest.raises(TimeoutError):
            stop(signal.SIGALRM, None)
    stop(signal.SIGALRM, None)


def test_a_timer_that_cannot_be_set_leaves_nothing():
    with pytest.raises(ValueError, match="NaN"), time_limit(float("nan"), "the work"):
        pytest.fail("it began")


def test_a_timer_of_the_caller_is_given_back_with_what_is_left_of_it():
    signal.setitimer(signal.ITIMER_REAL, 1000.0, 7.0)
    with time_limit(5.0, "the work"):
        time.sleep(0.1)
    left, again = signal.setitimer(signal.ITIMER_REAL, 0.0)
    assert 900.0 < left <= 999.9
    assert again == 7.0


def test_other_threads_have_no_limit():
    def work():
        with time_limit(0.01, "the work"):
            time.sleep(0.1)
            ended.append(True)

    ended: list[bool] = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ended == [True]
