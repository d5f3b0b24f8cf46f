"""How an IP packet of the node lies in a frame of the transport, and what the node's interface gets of it.

Both formats have 14 bytes in front of the packet, so that a frame of a given size carries the same packet:

- ``EthernetFraming``: an Ethernet header, as between kernels.
- ``OffloadFraming``: a mark and the packet's ``struct virtio_net_hdr``, as the TUN gives it and takes it:
  a checksum that is yet to be filled in, segments of one size that travel as one packet. MAC addresses
  would tell nothing on a link of two. Read as Ethernet it is a unicast frame for nobody, of no known type:
  a receiver without offloads drops it.

The header is in front of the packet on the TUN, too, so a packet moves between TUN and ring in one piece.
What a peer says in one is checked against the packet's length before it gets to a kernel, on a copy.

Source: Linux include/uapi/linux/virtio_net.h (struct virtio_net_hdr), include/linux/virtio_net.h
(virtio_net_hdr_to_skb, virtio_net_hdr_from_skb).
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct
from typing import NamedTuple, Protocol

HEAD_BYTES = 14
"""In front of the packet, in both formats."""
MAC_BYTES = 6
MARK = b"\x88\xb5\x00\x01"
"""IEEE 802 local experimental Ethertype 1, and the format's number; no bit of a group address."""

NEEDS_CSUM = 1
"""Flag: the checksum from ``csum_start`` on is to be filled in at ``csum_start + csum_offset``."""
DATA_VALID = 2
"""Flag: the packet's checksums were verified."""
GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4 = 0, 1, 4, 5
GSO_ECN = 0x80
"""Beside a TCP type: the first segment only has CWR."""

_ETHERTYPES = {4: b"\x08\x00", 6: b"\x86\xdd"}
"""Ethertype by IP version, in network byte order."""
_IP_HEADER_BYTES = {4: 20, 6: 40}
"""Least length of an IP header by version."""
_GROUP_BIT = 0x01
_VNET = Struct("<BBHHHH")
VNET_HEADER_BYTES = _VNET.size
_NO_OFFLOAD = bytes(VNET_HEADER_BYTES)
MOST_ACCEPTED = 64
"""Headers that are remembered: a flow has few."""
_NEVER = 1 << 32
"""Longer than any packet."""


class _Segments(NamedTuple):
    """What segments of a type look like."""

    versions: tuple[int, ...]
    header_bytes: int
    csum_offset: int


_SEGMENTS = {
    GSO_TCPV4: _Segments((4,), 20, 16),
    GSO_TCPV4 | GSO_ECN: _Segments((4,), 20, 16),
    GSO_TCPV6: _Segments((6,), 20, 16),
    GSO_TCPV6 | GSO_ECN: _Segments((6,), 20, 16),
    GSO_UDP_L4: _Segments((4, 6), 8, 6),
}


class VnetHeader(NamedTuple):
    """``struct virtio_net_hdr``: two bytes, then little-endian 16-bit fields.

    Offsets are in bytes from the start of the IP header.
    """

    flags: int = 0
    gso_type: int = GSO_NONE
    hdr_len: int = 0
    """Hint: bytes that are better in one piece; 0 for none."""
    gso_size: int = 0
    """Payload bytes of each segment but the last; 0 with GSO_NONE."""
    csum_start: int = 0
    csum_offset: int = 0

    @classmethod
    def unpack(cls, raw: bytes) -> VnetHeader:
        """From its 10 bytes."""
        return cls._make(_VNET.unpack(raw))

    def pack(self) -> bytes:
        """Its 10 bytes."""
        return _VNET.pack(*self)

    def fault(self, length: int, version: int) -> str | None:
        """Why a packet of ``length`` bytes and IP ``version`` (4 or 6) cannot have it; None when it can."""
        if self.flags not in {0, NEEDS_CSUM, DATA_VALID}:
            return "offload_flags"
        if self.hdr_len > length:
            return "offload_hdr_len"
        has_csum = self.flags == NEEDS_CSUM
        if has_csum and not (_IP_HEADER_BYTES[version] <= self.csum_start <= length - self.csum_offset - 2):
            return "offload_csum"
        if self.gso_type == GSO_NONE:
            return None
        segments = _SEGMENTS.get(self.gso_type)
        if segments is None or version not in segments.versions:
            return "offload_gso_type"
        if not has_csum or self.csum_offset != segments.csum_offset:
            return "offload_gso_csum"
        if not self.gso_size or self.csum_start + segments.header_bytes >= length:
            return "offload_gso_size"
        return None


class Framing(Protocol):
    """One format of frames.

    Attributes:
        tun_header_at: where in the 14 bytes begins what the TUN wants in front of the packet.
        fronts: the bytes in front of that, by the packet's IP version.
    """

    tun_header_at: int
    fronts: Mapping[int, bytes]

    def refusal(self, head: bytes, packet: memoryview) -> str | None:
        """Why a frame of the peer, its head already copied, is not for the node; None when it is."""


class EthernetFraming:
    """An Ethernet header; the TUN takes the bare packet.

    Args:
        local_mac: 6 bytes; frames for other addresses are dropped, those for groups are not.
        peer_mac: 6 bytes; destination of every frame sent.

    Raises:
        ValueError: a MAC address is not 6 bytes long.
    """

    tun_header_at = HEAD_BYTES

    def __init__(self, local_mac: bytes, peer_mac: bytes) -> None:
        if len(local_mac) != MAC_BYTES or len(peer_mac) != MAC_BYTES:
            raise ValueError(f"MAC addresses {local_mac.hex()}, {peer_mac.hex()}: not {MAC_BYTES} bytes")
        self._local_mac = local_mac
        self._expected = {local_mac + peer_mac + ethertype: v for v, ethertype in _ETHERTYPES.items()}
        self.fronts: Mapping[int, bytes] = {
            v: peer_mac + local_mac + ethertype for v, ethertype in _ETHERTYPES.items()
        }

    def refusal(self, head: bytes, packet: memoryview) -> str | None:
        """Another one's address, or an Ethertype that is not the packet's."""
        version = packet[0] >> 4
        if self._expected.get(head) == version:
            return None
        if not head[0] & _GROUP_BIT and head[:MAC_BYTES] != self._local_mac:
            return "address"
        return None if head[2 * MAC_BYTES :] == _ETHERTYPES.get(version) else "ethertype"


class OffloadFraming:
    """A mark and a virtio_net_hdr; the TUN takes the latter with the packet."""

    tun_header_at = len(MARK)
    fronts: Mapping[int, bytes] = dict.fromkeys(_IP_HEADER_BYTES, MARK)

    def __init__(self) -> None:
        self._accepted: dict[tuple[bytes, int], int] = {}
        """Headers that fitted a packet of that IP version, and its length: they fit longer ones, too."""

    def refusal(self, head: bytes, packet: memoryview) -> str | None:
        """No mark, no IP packet, or a header that does not fit the packet."""
        if head[: len(MARK)] != MARK:
            return "offload_mark"
        version = packet[0] >> 4
        if version not in _IP_HEADER_BYTES:
            return "ip_version"
        raw, length = head[len(MARK) :], len(packet)
        if raw == _NO_OFFLOAD or self._accepted.get((raw, version), _NEVER) <= length:
            return None
        fault = VnetHeader.unpack(raw).fault(length, version)
        if fault is None:
            if len(self._accepted) >= MOST_ACCEPTED:
                self._accepted.clear()
            self._accepted[raw, version] = length
        return fault
