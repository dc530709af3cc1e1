"""Between JAX's client and process 0: a line that goes silent where a connection would break."""

import contextlib
import socket
import threading

from train.config import RunError
from train.distributed.coordination import connect


class TcpProxy:
    """Listens at `address` on this machine and passes everything on to `host`:`port` and back.

    JAX's client aborts its process, with a stack trace, in the moment in which its connection to
    process 0 breaks. What it is connected to here stays open, so that the process can say what
    happened and end as it should.
    """

    def __init__(self, host: str, port: int) -> None:
        self._far = host, port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            near, _ = self._server.accept()
            try:
                far = connect(*self._far, seconds=60)
            except RunError:  # the board has ended, or will soon: it says so
                continue
            threading.Thread(target=self._pass, args=(near, far, True), daemon=True).start()
            threading.Thread(target=self._pass, args=(far, near, False), daemon=True).start()

    def _pass(self, source: socket.socket, to: socket.socket, and_ends: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                to.sendall(data)
            if and_ends:
                to.shutdown(socket.SHUT_RDWR)
