"""The other end of a ping-pong: sends every datagram back. A process of its own, as sockperf's server is.

``python -m ntbnet.app.echo FD`` serves the bound UDP socket that it inherits as FD until it is killed,
and writes a line once it does.
"""

from __future__ import annotations

import os
import socket
import sys

MOST_BYTES = 64


def main(fd: int) -> None:
    """Echo on the socket ``fd``, for ever."""
    server = socket.socket(fileno=fd)
    buffer = bytearray(MOST_BYTES)
    view = memoryview(buffer)
    os.write(sys.stdout.fileno(), b"ready\n")
    while True:
        length, sender = server.recvfrom_into(buffer)
        server.sendto(view[:length], sender)


if __name__ == "__main__":
    main(int(sys.argv[1]))
