"""Who may use a service: bearer tokens, of which only hashes are stored, each bound to keys and limits.

A token is 32 random bytes in text form, so that its SHA-256 can be stored in place of a slow password hash. The file
of tokens is JSON, for its owner alone, and is read again whenever it changes: a token that is revoked stops working
with the next request.
"""

import hashlib
import hmac
import json
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..setr.bounded_json import parse_json
from ..setr.counts import counted
from ..setr.files import read_private_file, write_whole

_PREFIX = "privseg-token-"
_MAX_FILE_BYTES = 2**24
_NAME = "[A-Za-z0-9][A-Za-z0-9._-]{0,63}"


class UnknownTokenError(PermissionError):
    """No token came, or one that is not known, or no longer."""


class ForbiddenError(PermissionError):
    """The token is known, and does not allow what was asked for."""


class RateLimitError(RuntimeError):
    """A token's limit of requests is reached.

    Args:
        message: for people.
        retry_after: seconds after which another request is allowed.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(frozen=True)
class Grant:
    """What a token allows.

    Args:
        name: of the token, for people and logs.
        fingerprints: of the keys that it may be used with; None is every key.
        may_register: whether patch embeddings of these keys may be registered, replaced and revoked with it.
        requests_per_minute: on average; a tenth of it, at least 5, at once.
        max_concurrent: requests under way at a time.

    Raises:
        ValueError: a value of another type or out of range.
    """

    name: str
    fingerprints: tuple[str, ...] | None = None
    may_register: bool = False
    requests_per_minute: int = 600
    max_concurrent: int = 8

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not re.fullmatch(_NAME, self.name):
            raise ValueError("the name of a token has 1 to 64 letters, digits, dots, dashes and underscores")
        for fingerprint in self.fingerprints or ():
            if not isinstance(fingerprint, str) or not re.fullmatch("[0-9a-f]{16}", fingerprint):
                raise ValueError(f"expected fingerprints of 16 hexadecimal characters for the token {self.name}")
        for name in ("requests_per_minute", "max_concurrent"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"expected {name} of at least 1 for the token {self.name}, got {value!r:.20}")
        if type(self.may_register) is not bool:
            raise ValueError(f"expected may_register to be true or false for the token {self.name}")

    def check_key(self, fingerprint: str, *, registers: bool = False) -> None:
        """Refuse a key that the token is not for.

        Raises:
            ForbiddenError: the token is for other keys, or not for registering.
        """
        if registers and not self.may_register:
            who = f"the token {self.name}" if self is not VISITOR else "a service without tokens at a public address"
            raise ForbiddenError(f"{who} is not for registering patch embeddings")
        if self.fingerprints is not None and fingerprint not in self.fingerprints:
            raise ForbiddenError(f"the token {self.name} is not for the key {fingerprint}")


ANYONE = Grant("anyone", may_register=True, requests_per_minute=10**9, max_concurrent=10**9)
VISITOR = replace(ANYONE, name="visitor", may_register=False)  # who may not change what belongs to tenants


def add_token(path: Path, grant: Grant) -> str:
    """Make a token and store its hash in a file, which is created if need be -> the token, shown this once.

    Raises:
        ValueError: the file holds a token of this name already, or is none.
    """
    tokens = _read(path) if path.exists() else {}
    if any(known.name == grant.name for known in tokens.values()):
        raise ValueError(f"{path} holds a token called {grant.name} already; revoke it first, or choose another name")
    token = _PREFIX + secrets.token_urlsafe(32)
    _write(path, {**tokens, _hash(token): grant})
    return token


def revoke_token(path: Path, name: str) -> None:
    """Remove a token from a file.

    Raises:
        ValueError: the file holds none of this name, or is none.
    """
    tokens = _read(path)
    left = {digest: grant for digest, grant in tokens.items() if grant.name != name}
    if len(left) == len(tokens):
        known = ", ".join(sorted(grant.name for grant in tokens.values())) or "none"
        raise ValueError(f"expected the name of a token in {path}, got {name!r:.80}; there are: {known}")
    _write(path, left)


def list_grants(path: Path) -> list[Grant]:
    """What the tokens of a file allow, by name."""
    return sorted(_read(path).values(), key=lambda grant: grant.name)


class Access:
    """The tokens of a service with their limits. Safe to use from several threads.

    Args:
        path: the file of tokens; None where everybody may use the service.
        everybody: what a request without a token may do, where there is no file.
        clock: seconds, never going back; tests put theirs here.

    Raises:
        OSError, ValueError: the file cannot be read.
    """

    def __init__(
        self, path: Path | None = None, *, everybody: Grant = ANYONE, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path, self._everybody, self._clock = path, everybody, clock
        self._lock = threading.Lock()
        self._tokens: dict[str, Grant] = {}
        self._stamp: tuple[int, int] | None = None
        self._allowances: dict[str, tuple[float, float]] = {}  # name -> (requests left, when that was counted)
        self._running: dict[str, int] = {}
        self._read_again()

    @property
    def needs_token(self) -> bool:
        """Whether requests need a token."""
        return self._path is not None

    def identify(self, authorization: str | None) -> Grant:
        """The Authorization header of a request, or None -> what it may do.

        Raises:
            UnknownTokenError: there is no known token in it.
        """
        if self._path is None:
            return self._everybody
        self._read_again()
        scheme, _, token = (authorization or "").partition(" ")
        digest = _hash(token.strip()) if scheme.lower() == "bearer" else ""
        found = None
        for known, grant in self._tokens.items():  # all of them, so that the time tells nothing
            if hmac.compare_digest(known, digest):
                found = grant
        if found is None:
            came = "another one" if digest else "none"
            raise UnknownTokenError(
                f"expected an access token of this service in the header 'Authorization: Bearer TOKEN', got {came}; "
                "ask its operator for one (privseg token add)"
            )
        return found

    @contextmanager
    def admitted(self, grant: Grant) -> Iterator[None]:
        """Count a request against the limits of its token while the block runs.

        Raises:
            RateLimitError: a limit is reached.
        """
        if self._path is None:
            yield
            return
        with self._lock:
            self._take_one(grant)
            self._running[grant.name] = self._running.get(grant.name, 0) + 1
        try:
            yield
        finally:
            with self._lock:
                self._running[grant.name] -= 1

    def _take_one(self, grant: Grant) -> None:
        if self._running.get(grant.name, 0) >= grant.max_concurrent:
            raise RateLimitError(
                f"the token {grant.name} allows {counted(grant.max_concurrent, 'request')} at a time; wait for one to "
                "end",
                1,
            )
        now, burst, each = self._clock(), max(5.0, grant.requests_per_minute / 10), 60 / grant.requests_per_minute
        left, since = self._allowances.get(grant.name, (burst, now))
        left = min(burst, left + (now - since) / each)
        if left < 1:
            self._allowances[grant.name] = (left, now)
            raise RateLimitError(
                f"the token {grant.name} allows {counted(grant.requests_per_minute, 'request')} a minute; send fewer",
                (1 - left) * each,
            )
        self._allowances[grant.name] = (left - 1, now)

    def _read_again(self) -> None:
        """Read the file of tokens if it has changed."""
        if self._path is None:
            return
        found = self._path.stat()
        stamp = (found.st_mtime_ns, found.st_ino)
        with self._lock:
            if stamp != self._stamp:
                self._tokens, self._stamp = _read(self._path), stamp


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def _read(path: Path) -> dict[str, Grant]:
    """A file of tokens -> {hash: grant}."""
    content = read_private_file(path, _MAX_FILE_BYTES, noun="file of access tokens")
    try:
        entries = parse_json(content, max_bytes=_MAX_FILE_BYTES)["tokens"]
        return {_checked_hash(entry["sha256"]): _grant(entry) for entry in entries}
    except (ValueError, TypeError, LookupError) as error:
        raise ValueError(f"{path} is no file of access tokens ({error}); make one with privseg token add") from error


def _grant(entry: Mapping[str, object]) -> Grant:
    fields = {name: value for name, value in entry.items() if name != "sha256"}
    if isinstance(fields.get("fingerprints"), list):
        fields["fingerprints"] = tuple(fields["fingerprints"])  # type: ignore[arg-type]  # a list, as was checked
    return Grant(**fields)  # type: ignore[arg-type]  # Grant checks every field


def _checked_hash(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch("[0-9a-f]{64}", value):
        raise ValueError("expected hashes of 64 hexadecimal characters")
    return value


def _write(path: Path, tokens: Mapping[str, Grant]) -> None:
    entries = [{"sha256": digest, **asdict(grant)} for digest, grant in tokens.items()]
    write_whole(path, json.dumps({"tokens": entries}, indent=1).encode(), overwrite=True, private=True)
