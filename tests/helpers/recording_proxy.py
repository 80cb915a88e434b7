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

    def uploads(self):
        """[(file name, content)] of every uploaded file."""
        header = rb'\r\n(--[\w-]+)\r\nContent-Disposition: form-data; name="files"; filename="([^"]*)"\r\n.*?\r\n\r\n'
        found = re.finditer(header + rb"(.*?)\r\n\1--", self.sent(), re.DOTALL)
        return [(match[2].decode(), match[3]) for match in found]

    def images(self):
        """The encrypted images among the uploads, which are those with the header of one."""
        return [EncryptedImage.from_bytes(data) for _, data in self.uploads() if b"privseg" in data[:2000]]


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
