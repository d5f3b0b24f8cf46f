"""When the carriers of interfaces went and came, as the kernel tells whoever listens.

Each change of an interface is an RTM_NEWLINK message to the group of links, whose header has the flags of
then: IFF_LOWER_UP is the carrier. It is told at once when somebody asks for the link state, as ``tun`` does,
else within a second.

Source: rtnetlink(7), netlink(7); Linux include/uapi/linux/rtnetlink.h, if.h; net/core/link_watch.c.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from ntbnet.edge.clock import monotonic_ns
from ntbnet.edge.netns import inside

_RTMGRP_LINK = 1
_RTM_NEWLINK = 16
_IFF_LOWER_UP = 1 << 16
_HEADER = struct.Struct("=IHHII")
"""struct nlmsghdr: length of the whole message, type, flags, sequence, port."""
_LINK = struct.Struct("=BxHiII")
"""struct ifinfomsg: family, type, index, flags, which of them changed."""
_BUFFER_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class CarrierChange:
    """A carrier that came or went.

    Attributes:
        node: as given to ``CarrierWatch``.
        time_ns: monotonic.
        up: it came.
    """

    node: str
    time_ns: int
    up: bool


class CarrierWatch:
    """Notes changes down from now on, in a thread of its own.

    Args:
        interfaces: node -> its network namespace and the name of the interface.

    Attributes:
        changes: in the order of time; complete after ``close``.

    Raises:
        SetupError: a namespace cannot be entered.
        OSError: an interface is not there.
    """

    def __init__(self, interfaces: Mapping[str, tuple[str, str]]) -> None:
        self.changes: list[CarrierChange] = []
        self._sockets: dict[int, tuple[str, int, socket.socket]] = {}
        self._end = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._listen, name="carriers", daemon=True)
        try:
            for node, (netns, name) in interfaces.items():
                with inside(netns):
                    index = socket.if_nametoindex(name)
                    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
                self._sockets[netlink.fileno()] = (node, index, netlink)
                netlink.bind((0, _RTMGRP_LINK))
        except BaseException:
            self._close_all()
            raise
        self._thread.start()

    def close(self) -> None:
        """Listen no more. Idempotent."""
        if self._thread.is_alive():
            os.eventfd_write(self._end, 1)
            self._thread.join()
            self._close_all()

    def _close_all(self) -> None:
        for _, _, netlink in self._sockets.values():
            netlink.close()
        os.close(self._end)

    def _listen(self) -> None:
        with suppress(OSError):  # without the right to, it waits for a CPU as others do, and is late then
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))  # of this thread alone
        was_up: dict[str, bool] = {}
        poll = select.poll()
        for descriptor in (self._end, *self._sockets):
            poll.register(descriptor, select.POLLIN)
        while True:
            ready = [descriptor for descriptor, _ in poll.poll()]
            if self._end in ready:
                return
            now_ns = monotonic_ns()
            for descriptor in ready:
                node, index, netlink = self._sockets[descriptor]
                try:
                    told = netlink.recv(_BUFFER_BYTES)
                except OSError:
                    continue  # too much to tell at once (ENOBUFS): a change is missing
                for up in carriers_in(told, index):
                    if was_up.get(node) is not up:
                        was_up[node] = up
                        self.changes.append(CarrierChange(node, now_ns, up))


def carriers_in(told: bytes, index: int) -> list[bool]:
    """What the netlink messages in ``told`` say of the carrier of one interface; others are left out."""
    found = []
    offset = 0
    while offset + _HEADER.size <= len(told):
        length, kind, _, _, _ = _HEADER.unpack_from(told, offset)
        if length < _HEADER.size:
            break
        if kind == _RTM_NEWLINK and min(length, len(told) - offset) >= _HEADER.size + _LINK.size:
            _, _, its_index, flags, _ = _LINK.unpack_from(told, offset + _HEADER.size)
            if its_index == index:
                found.append(bool(flags & _IFF_LOWER_UP))
        offset += length + 3 & ~3
    return found
