"""A proxy on loopback that keeps every byte that goes to the server behind it, and what is read out of them."""

import re
import socket
import threading
from contextlib import contextmanager, suppress

from hf_privseg import EncryptedImage


class Recorder:
    """What a browser sent through the proxy: all of it, as it came, one entry a connection."""

    def __init__(self):
        self._connections = []

    def start_connection(self):
        self._connections.append(bytearray())
        return self._connections[-1]

    def sent(self):
        """Everything, headers and bodies, one after the other."""
        return b"".join(bytes(connection) for connection in self._connections)

    def bodies(self):
        """[(request line, body)] of every request that has a body."""
        found = []
        for connection in self._connections:
            rest = bytes(connection)
            while rest:
                head, _, rest = rest.partition(b"\r\n\r\n")
                length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
                size = int(length[1]) if length else 0
                if size:
                    found.append((head.partition(b"\r\n")[0].decode(), rest[:size]))
                rest = rest[size:]
        return found

    def images(self):
        """The encrypted images among the bodies, which are those with the header of one."""
        return [EncryptedImage.from_bytes(data) for _, data in self.bodies() if b"privseg" in data[:2000]]


@contextmanager
def recording(port):
    """Port of a server on loopback -> (address of a proxy to it, its Recorder)."""
    recorder = Recorder()
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source, target, keep=None):
        with suppress(OSError):
            while data := source.recv(2**16):
                if keep is not None:
                    keep += data
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def accept():
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", port))
                kept = recorder.start_connection()
                threading.Thread(target=pump, args=(client, server, kept), daemon=True).start()
                threading.Thread(target=pump, args=(server, client), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/", recorder
    finally:
        listener.close()
