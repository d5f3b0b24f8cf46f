"""Which flow an IP packet belongs to, so that packets of one flow stay on one queue, in order.

A flow is the pair of addresses, with the ports when the packet is unfragmented TCP or UDP (fragments
carry no ports, and must go where their first one goes). The hash is the same in every process.

A CRC alone is linear: clients take every second port, and with two queues all their flows met on one. So
its bits are mixed once more, as in the finalizer of MurmurHash3.
"""

from __future__ import annotations

from zlib import crc32

_TCP, _UDP = 6, 17
_IPV4_ADDRESSES, _IPV6_ADDRESSES, _IPV6_PORTS = slice(12, 20), slice(8, 40), slice(40, 44)
_FRAGMENT_MASK = 0x3FFF
"""More-fragments bit and fragment offset of IPv4's fragment word."""


def flow_hash(packet: memoryview) -> int:
    """A 32-bit hash of the packet's flow; 0 for what is no IP packet."""
    found = _flow_crc(packet)
    found = (found ^ found >> 16) * 0x85EBCA6B & 0xFFFFFFFF
    return found ^ found >> 13


def _flow_crc(packet: memoryview) -> int:
    if len(packet) < 20:
        return 0
    version = packet[0] >> 4
    if version == 4:
        found = crc32(packet[_IPV4_ADDRESSES])
        ports = 4 * (packet[0] & 0xF)
        is_whole = not (packet[6] << 8 | packet[7]) & _FRAGMENT_MASK
        if is_whole and packet[9] in (_TCP, _UDP) and len(packet) >= ports + 4:
            return crc32(packet[ports : ports + 4], found)
        return found
    if version == 6 and len(packet) >= 44:
        found = crc32(packet[_IPV6_ADDRESSES])
        return crc32(packet[_IPV6_PORTS], found) if packet[6] in (_TCP, _UDP) else found
    return 0
