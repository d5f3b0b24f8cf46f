"""The shipped dissector in the real tshark, on records as a bridge writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ntbnet import pcapng
from ntbnet.config import load_text
from ntbnet.trace_pcapng import PcapngTrace
from ntbnet.trace_places import Places, RegBlock, register_name
from ntbnet.trace_records import Block, Flag, Handler, Kind, Record, Result
from ntbnet.wire import Service
from tests.trace_samples import (
    BELL,
    EDMA,
    STEP_NS,
    Entry,
    Notebook,
    packet_over_the_edma,
    packets,
    read_of_a_register,
    ring_of,
)
from tests.tshark import has_dissector, info, rows

pytestmark = pytest.mark.system

LINKS = (
    "frame.number",
    "ntbnet.kind",
    "ntbnet.flow_previous",
    "ntbnet.flow_next",
    "ntbnet.cause",
    "ntbnet.effect",
)


@pytest.fixture(scope="module", autouse=True)
def _lua(programs: None) -> None:
    assert has_dissector(), "this tshark runs no Lua scripts for this user"


def capture(tmp_path: Path, entries: list[Entry]) -> Path:
    path = tmp_path / "trace.pcapng"
    places = Places(load_text("", "defaults"))
    path.write_bytes(b"".join(PcapngTrace("test", places).blocks(entries)))
    return path


def one(tmp_path: Path, service: Service, kind: Kind, **fields: int | bytes) -> str:
    """The info column of one record."""
    (text,) = info(capture(tmp_path, [(ring_of(service), Record(1, int(kind), **fields))]))  # type: ignore[arg-type] # by name
    return text


@pytest.mark.covers("EDMA 126", "EDMA 104")
@pytest.mark.parametrize("local", [True, False])
def test_a_packet_is_followed_from_the_store_to_the_handler(tmp_path: Path, local: bool) -> None:
    path = capture(tmp_path, list(packets(1, local=local)))

    found = {row["frame.number"]: row for row in rows(path, *LINKS, where="ntbnet.kind", two_passes=True)}

    at = next(number for number, row in found.items() if row["ntbnet.kind"] == str(int(Kind.TUN_READ)))
    kinds = [Kind.TUN_READ]
    while True:
        row = found[at]
        # on from the trigger, from the register, and from the store that the controller passed on, by cause
        at = row["ntbnet.effect"] or row["ntbnet.flow_next"]
        if not at:
            break
        kinds.append(Kind(int(found[at]["ntbnet.kind"])))
    stores = [Kind.MEM_WRITE] * (2 if local else 3)
    chain = [
        Kind.TUN_READ,
        Kind.RING_WRITE,
        Kind.TRIGGER,
        *stores,
        Kind.REG_WRITE,
        Kind.LINE,
        Kind.LINE,
        Kind.SLICE,
    ]
    assert kinds == chain


def test_every_field_of_a_translated_store_is_decoded(tmp_path: Path) -> None:
    path = capture(tmp_path, list(packets(1, local=False)))

    names = (
        "addr",
        "translated",
        "bar",
        "bar_offset",
        "window",
        "region",
        "reg",
        "value",
        "len",
        "result",
        "src",
        "dst",
    )
    fields = [f"ntbnet.{name}" for name in names]
    (row,) = rows(path, *fields, where="ntbnet.is_translated == 1")

    assert list(row.values()) == [
        f"0x{BELL:016x}",
        f"0x{EDMA + 0xA0:016x}",
        "2",
        "0x00000000000f00a0",
        "2",
        "10",
        "RD_INT_STATUS",
        "0x0000000000000000",
        "4",
        "0",
        "peer-rc",
        "epc",
    ]


def test_request_and_completion_are_linked(tmp_path: Path) -> None:
    book = Notebook()
    for tag in (5, 6, 5):
        read_of_a_register(book, tag)
    path = capture(tmp_path, book.entries)

    fields = ("frame.number", "ntbnet.kind", "ntbnet.response_in", "ntbnet.response_to", "ntbnet.response_ns")
    found = rows(path, *fields, where="ntbnet.response_in || ntbnet.response_to", two_passes=True)

    links = [(row["frame.number"], row["ntbnet.response_in"] or row["ntbnet.response_to"]) for row in found]
    # of each read: sent, translated, answered, arrived; a tag that is used again is another request
    assert links == [(str(4 * n + a), str(4 * n + b)) for n in range(3) for a, b in ((1, 3), (3, 1), (4, 1))]
    assert {row["ntbnet.response_ns"] for row in found} == {"", str(2 * STEP_NS), str(3 * STEP_NS)}


def test_an_unsupported_request_is_told_and_found_by_filter(tmp_path: Path) -> None:
    book = Notebook()
    read_of_a_register(book, 1)
    read_of_a_register(book, 2, Result.UR)
    path = capture(tmp_path, book.entries)

    refused = info(path, "ntbnet.result == 1 && ntbnet.kind == 34")

    text = "Completion of tag 2, 2 B = 0x1 [unsupported request]"
    assert refused == [f"{text}, sent", text]
    assert len(rows(path, "frame.number", where="ntbnet.refused")) == 3


def test_records_that_were_overwritten_are_told(tmp_path: Path) -> None:
    book = Notebook()
    packet_over_the_edma(book, 0)
    book.lose(Service.EDMA, 5)
    packet_over_the_edma(book, 1)

    (row,) = rows(capture(tmp_path, book.entries), "ntbnet.missing", "ntbnet.service", where="ntbnet.missing")

    assert list(row.values()) == ["5", str(int(Service.EDMA))]


def test_the_nodes_own_packets_are_decoded_and_know_their_flow(tmp_path: Path) -> None:
    path = capture(tmp_path, list(packets(2)))

    fields = (
        "ip.src",
        "frame.interface_name",
        "frame.packet_flags_direction",
        "ntbnet.flow",
        "ntbnet.flight_ns",
    )
    sent, arrived, *_ = rows(path, *fields, where="icmp", two_passes=True)

    assert (sent["ip.src"], sent["frame.interface_name"]) == ("10.0.0.1", "ntb0@rc")
    assert (arrived["ip.src"], arrived["frame.interface_name"]) == ("10.0.0.1", "ntb0@ep")
    assert sent["frame.packet_flags_direction"] != arrived["frame.packet_flags_direction"]
    assert sent["ntbnet.flow"] == arrived["ntbnet.flow"] != ""
    assert sent["ntbnet.flight_ns"] == arrived["ntbnet.flight_ns"] == str(8 * STEP_NS)


def test_registers_have_the_names_of_the_tables(tmp_path: Path) -> None:
    offsets = range(0, 0x1200, 2)
    entries = [
        (ring_of(Service.EDMA), Record(n + 1, Kind.REG_READ, address=at, slot=Block.EDMA, number=n + 1))
        for n, at in enumerate(offsets)
    ]
    config = range(0x140)
    entries += [(ring_of(Service.EPC), Record(9999, Kind.CFG_READ, address=at)) for at in config]

    shown = [row["ntbnet.reg"] for row in rows(capture(tmp_path, entries), "ntbnet.reg")]

    names = [register_name(RegBlock.EDMA, at) for at in offsets]
    assert shown == names + [register_name(RegBlock.CONFIG, at) for at in config]
    assert len(set(names)) > 150


@pytest.mark.parametrize(
    ("service", "kind", "fields", "text"),
    [
        (
            Service.EPC,
            Kind.MSI,
            {"slot": 3, "address": 0xFEE0_0000, "length": 4, "data": b"\x04\0\0\0", "flags": Flag.SENT},
            "MSI vector 3 to 0xfee00000 = 0x4, sent",
        ),
        (
            Service.RC_HOST,
            Kind.CFG_READ,
            {"length": 2, "tag": 9},
            "Config read 2 B config+0x0 VENDOR_ID, tag 9",
        ),
        (Service.EPC, Kind.MEM_WRITE, {"address": 0x1000, "length": 300}, "Memory write 300 B 0x1000"),
        (Service.PEER_EP, Kind.IRQ, {"address": 0x5, "slot": 2}, "Interrupt, doorbell slots 0x5"),
        (Service.PEER_EP, Kind.SLICE, {"slot": Handler.TUN, "amount": 1500}, "Handler (tun) took 1.5 us"),
        (
            Service.PEER_RC,
            Kind.RING_FILL,
            {"amount": 3, "length": 13},
            "Ring of queue 0 holds 3 of 13 frames",
        ),
        (Service.PEER_RC, Kind.TRIGGER, {"result": Result.DROPPED}, "Queue 0: the peer looks by itself"),
        (Service.EPC, Kind.EVENT, {"data": b"link.changed up=True"}, "event: link.changed up=True"),
        (Service.EPC, Kind.OTHER, {"data": b"link", "tag": 3, "flags": Flag.SENT}, "other: link, sent"),
        (
            Service.EPC,
            Kind.BEAT,
            {"address": 1, "translated": 2, "flow": 3, "length": 4, "amount": 5},
            "Alive: 1 messages received, 2 sent; packets sent 4, received 5",
        ),
    ],
)
def test_the_info_column_says_what_happened(
    tmp_path: Path, service: Service, kind: Kind, fields: dict[str, int | bytes], text: str
) -> None:
    assert one(tmp_path, service, kind, **fields) == text


def test_any_kind_with_any_values_is_borne(tmp_path: Path) -> None:
    """The dissector reads what a damaged ring holds: ``tshark`` asserts that no Lua error is shown."""
    top = {
        "address": 2**64 - 1,
        "translated": 2**64 - 1,
        "flow": 2**64 - 1,
        "amount": 2**32 - 1,
        "tag": 2**32 - 1,
    }
    ring = ring_of(Service.EPC)
    entries = [
        (
            ring._replace(service=service),
            Record(1, kind, flags, 200, 7, length=4, slot=65535, data=data, **top),
        )
        for kind in range(256)
        for service, flags, data in ((1, 0xFF, b""), (3, 0, b"\xff\0abc"), (5, 4, b"\xffxyz"))
    ]

    assert len(info(capture(tmp_path, entries))) >= len(entries)


def test_what_is_no_record_is_said_to_be_none(tmp_path: Path) -> None:
    path = tmp_path / "foreign.pcapng"
    file = pcapng.section() + pcapng.interface(pcapng.LINKTYPE_USER0, "x")
    packets_in_it = [b"", b"\x01", b"\x02" + bytes(200), b"\x01\xff" + bytes(100)]
    path.write_bytes(file + b"".join(pcapng.packet(0, 1, data) for data in packets_in_it))

    assert info(path) == ["No record of an NTB bridge's trace that this dissector knows"] * 4
