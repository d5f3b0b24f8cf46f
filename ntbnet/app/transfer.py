"""A TCP transfer between the nodes whose every byte is checked."""

from __future__ import annotations

import asyncio
import hashlib
import random
import socket
import time
from collections.abc import Callable
from typing import Any

from ntbnet.edge.netns import inside

TRANSFER_BYTES = 64 << 20
BLOCK_BYTES = 1 << 18
TIMEOUT_S = 60.0


def socket_inside(namespace: str) -> socket.socket:
    """A TCP socket that lives in a network namespace."""
    with inside(namespace):
        return socket.socket(socket.AF_INET, socket.SOCK_STREAM)


async def transfer(
    source: str,
    namespaces: tuple[str, str],
    address: str,
    size: int = TRANSFER_BYTES,
    *,
    seed: int = 1,
    timeout_s: float = TIMEOUT_S,
    open_socket: Callable[[str], socket.socket] = socket_inside,
) -> dict[str, Any]:
    """Send ``size`` seeded random bytes over TCP and compare digests.

    Args:
        source: rc or ep, the node that sends; goes into the result.
        namespaces: of the sender and of the receiver.
        address: IPv4 address of the receiver.
        size: bytes, at least 1.
        seed: of the bytes.
        timeout_s: for all of it, seconds.
        open_socket: makes a TCP socket in a namespace.

    Returns:
        ``from``, ``bytes`` that arrived, ``sha256_equal``, ``gbit_s`` (None when it did not finish)
        and ``error``: why not, or None.
    """
    listener, sender = open_socket(namespaces[1]), open_socket(namespaces[0])
    listener.setblocking(False)
    sender.setblocking(False)
    result: dict[str, Any] = {
        "from": source,
        "bytes": 0,
        "sha256_equal": False,
        "gbit_s": None,
        "error": None,
    }
    started_s = time.monotonic()
    try:
        listener.bind((address, 0))
        listener.listen(1)
        async with asyncio.timeout(timeout_s), asyncio.TaskGroup() as group:
            sent = group.create_task(_send(sender, listener.getsockname(), size, seed))
            got = group.create_task(_receive(listener))
        received, digest = got.result()
        result["bytes"] = received
        result["sha256_equal"] = received == size and digest == sent.result()
        result["gbit_s"] = round(received * 8 / (time.monotonic() - started_s) / 1e9, 4)
    except TimeoutError:
        result["error"] = f"not finished in {timeout_s:g} s"
    except ExceptionGroup as problems:
        failures, others = problems.split(OSError)
        if others is not None or failures is None:
            raise
        result["error"] = "; ".join(str(failure) for failure in failures.exceptions)
    except OSError as problem:
        result["error"] = str(problem)
    finally:
        sender.close()
        listener.close()
    return result


async def _send(sender: socket.socket, where: tuple[str, int], size: int, seed: int) -> str:
    loop, digest, chance = asyncio.get_running_loop(), hashlib.sha256(), random.Random(seed)
    await loop.sock_connect(sender, where)
    left = size
    while left:
        block = chance.randbytes(min(BLOCK_BYTES, left))
        digest.update(block)
        await loop.sock_sendall(sender, block)
        left -= len(block)
    sender.shutdown(socket.SHUT_WR)
    return digest.hexdigest()


async def _receive(listener: socket.socket) -> tuple[int, str]:
    loop, digest, received = asyncio.get_running_loop(), hashlib.sha256(), 0
    receiver, _ = await loop.sock_accept(listener)
    with receiver:
        receiver.setblocking(False)
        while block := await loop.sock_recv(receiver, BLOCK_BYTES):
            digest.update(block)
            received += len(block)
    return received, digest.hexdigest()
