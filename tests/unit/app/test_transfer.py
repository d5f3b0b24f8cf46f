"""The checked transfer, over the loopback interface."""

from __future__ import annotations

import socket

import pytest

from ntbnet.app.transfer import transfer


def plain(namespace: str) -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM)


@pytest.mark.parametrize("size", [1, 1 << 18, (1 << 20) + 7])
async def test_every_byte_arrives_and_digests_agree(size: int) -> None:
    result = await transfer("ep", ("a", "b"), "127.0.0.1", size, open_socket=plain)

    assert (result["from"], result["bytes"], result["sha256_equal"], result["error"]) == (
        "ep",
        size,
        True,
        None,
    )
    assert result["gbit_s"] >= 0


async def test_address_that_is_not_here_is_said_and_no_success() -> None:
    result = await transfer("rc", ("a", "b"), "192.0.2.1", 1, open_socket=plain)

    assert (result["sha256_equal"], result["gbit_s"]) == (False, None)
    assert "Cannot assign" in result["error"]


async def test_transfer_that_takes_too_long_is_given_up() -> None:
    result = await transfer("rc", ("a", "b"), "127.0.0.1", 1 << 30, timeout_s=0.05, open_socket=plain)

    assert (result["sha256_equal"], result["error"]) == (False, "not finished in 0.05 s")
