"""What a key has derived, kept as long as the key: made once, whichever thread asks first."""

from collections.abc import Callable, Hashable
from threading import Lock, RLock
from typing import Any, TypeVar, cast
from weakref import WeakValueDictionary

_T = TypeVar("_T")


class Memo:
    """Results by name. They may be secret: a memo belongs to a key and to nothing else."""

    def __init__(self) -> None:
        self._results: dict[Hashable, Any] = {}
        self._lock = RLock()  # what is made may itself ask for results

    def remember(self, name: Hashable, make: Callable[[], _T]) -> _T:
        """make(), called once for this memo and `name`; threads that ask meanwhile wait for it."""
        with self._lock:
            if name not in self._results:
                self._results[name] = make()
            return cast(_T, self._results[name])


_living: WeakValueDictionary[bytes, Memo] = WeakValueDictionary()  # holds nothing alive
_lock = Lock()


def shared_memo(identity: bytes) -> Memo:
    """The memo of all objects of one identity: a new one, unless one of them is alive."""
    with _lock:
        memo = _living.get(identity)
        if memo is None:
            memo = _living[identity] = Memo()
        return memo
