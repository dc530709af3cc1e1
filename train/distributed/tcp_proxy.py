"""A TCP proxy between JAX's client and process 0, which hides disconnects from JAX."""

import contextlib
import socket
import threading

from train.config import RunError
from train.distributed.coordination import connect


class TcpProxy:
    """Listens at `address` on this machine and forwards all data to and from `host`:`port`.

    JAX's client aborts its process, with a stack trace, when its connection to process 0 breaks.
    The connection to this proxy stays open instead, so that the process can print a message and
    end in order.
    """

    def __init__(self, host: str, port: int) -> None:
        self._remote = host, port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            local, _ = self._server.accept()
            try:
                remote = connect(*self._remote, seconds=60)
            except RunError:  # process 0 has ended: the coordination service reports it
                continue
            threading.Thread(target=self._forward, args=(local, remote, True), daemon=True).start()
            threading.Thread(target=self._forward, args=(remote, local, False), daemon=True).start()

    def _forward(self, source: socket.socket, to: socket.socket, forward_end: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                to.sendall(data)
            if forward_end:
                to.shutdown(socket.SHUT_RDWR)
