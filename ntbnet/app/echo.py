"""The other end of a ping-pong: sends every datagram back. A process of its own, as sockperf's server is.

``python -m ntbnet.app.echo PARENT FD`` serves the bound UDP socket that it inherits as FD until it is killed
or the process PARENT, which started it, ends; and writes a line once it does.
"""

from __future__ import annotations

import os
import socket
import sys

from ntbnet.app.process_end import end_with

MOST_BYTES = 64


def main(parent: str, fd: str) -> None:
    """Echo on the socket ``fd`` as long as ``parent`` lives."""
    end_with(parent)
    server = socket.socket(fileno=int(fd))
    buffer = bytearray(MOST_BYTES)
    view = memoryview(buffer)
    os.write(sys.stdout.fileno(), b"ready\n")
    while True:
        length, sender = server.recvfrom_into(buffer)
        server.sendto(view[:length], sender)


if __name__ == "__main__":
    main(*sys.argv[1:])
