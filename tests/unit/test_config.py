"""Every key's range, every rule that joins keys, and the one line that explains a refusal."""

from __future__ import annotations

import dataclasses
import tomllib
from typing import get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntbnet.config import Config, Sections, check_text, load_text, shared_identity, to_dict, to_toml, warnings
from ntbnet.errors import ConfigError
from ntbnet.profile import shipped
from ntbnet.schema import Boolean, Choice, Integer, Key, Text, keys

KEYS = list(keys(Sections))
INTEGERS = [(key.name, key.rule) for key in KEYS if isinstance(key.rule, Integer)]


def toml(**values: str) -> str:
    """A document of dotted keys (written with __ for the dot) and TOML values."""
    return "\n".join(f"{name.replace('__', '.')} = {value}" for name, value in values.items())


def refusal(text: str) -> str:
    """The message of a refused document, without its source."""
    with pytest.raises(ConfigError) as caught:
        load_text(text, "file.toml")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("file.toml: ")
    return message.removeprefix("file.toml: ")


@pytest.fixture
def defaults() -> Config:
    return load_text("", "nothing")


def test_empty_text_gives_the_documented_defaults(defaults: Config) -> None:
    assert defaults.bridge.profile == "r-car-s4"
    assert defaults.bridge.fabric == "local"
    assert defaults.bridge.transport == "ipc"
    assert defaults.bridge.tcp_base_port == 7400
    assert (defaults.node.rc.ipv4, defaults.node.rc.ipv6) == ("10.77.0.1/24", "fd77::1/64")
    assert (defaults.node.ep.ipv4, defaults.node.ep.ipv6) == ("10.77.0.2/24", "fd77::2/64")
    assert defaults.node.rc.dram_bytes == defaults.node.ep.dram_bytes == 33554432
    assert (defaults.netdev.tun, defaults.netdev.mtu, defaults.netdev.tx_stop) == ("ntb0", 65510, 5)
    assert (defaults.ntb.ctrl_layout, defaults.ntb.num_mws, defaults.ntb.inbound) == ("rfc1", 2, "map")
    assert (defaults.ntb.spad_count, defaults.ntb.db_count, defaults.ntb.vbus_number) == (128, 16, 16)
    assert (defaults.ntb.vendor_id, defaults.ntb.device_id) == (0x1912, 0x0030)
    assert (defaults.ntb.vntb_vid, defaults.ntb.vntb_pid) == (0x1912, 0x0030)
    assert dataclasses.astuple(defaults.transport) == (65536, 0, 0, "auto", "auto", True, False, 1024)
    assert dataclasses.astuple(defaults.timing) == (500, 1000, 300, 1000)
    assert dataclasses.astuple(defaults.supervisor) == (50, 2000, 5000)
    assert (defaults.log.level, defaults.log.dir, defaults.run.dir) == ("info", "", "")


def test_defaults_are_without_warnings(defaults: Config) -> None:
    assert warnings(defaults) == []


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
def test_default_lies_in_its_own_range(key: Key, defaults: Config) -> None:
    value: object = defaults
    for part in key.name.split("."):
        value = getattr(value, part)

    assert key.rule.accepts(value)


@pytest.mark.parametrize(("name", "rule"), INTEGERS)
@given(data=st.data())
def test_integer_outside_its_range_is_refused_with_key_value_and_range(
    name: str, rule: Integer, data: st.DataObject
) -> None:
    outside = st.integers(max_value=rule.low - 1) | st.integers(min_value=rule.high + 1)
    value = data.draw(outside.filter(lambda v: -(1 << 63) <= v < 1 << 63))

    assert refusal(f"{name} = {value}") == f"{name} = {rule.shown(value)}: must be {rule.allowed()}"


@pytest.mark.parametrize("name", [name for name, rule in INTEGERS if rule.multiple_of > 1])
def test_integer_between_the_multiples_is_refused(name: str) -> None:
    assert "a multiple of" in refusal(f"{name} = 0x4000001")


@pytest.mark.parametrize("name", [name for name, _ in INTEGERS])
@pytest.mark.parametrize("value", ["true", "1.0", '"1"', "[]", "{}", "1979-05-27", "inf"])
def test_integer_key_takes_no_other_type(name: str, value: str) -> None:
    assert refusal(f"{name} = {value}").startswith(f"{name} = ")


@pytest.mark.parametrize("key", [key for key in KEYS if isinstance(key.rule, Boolean)], ids=lambda k: k.name)
@pytest.mark.parametrize("value", ["1", "1.0", "[]", "{}", '"yes"'])
def test_boolean_key_takes_no_other_type(key: Key, value: str) -> None:
    assert refusal(f"{key.name} = {value}").startswith(f"{key.name} = ")


@pytest.mark.parametrize(
    "key", [key for key in KEYS if not isinstance(key.rule, Integer | Boolean)], ids=lambda k: k.name
)
@pytest.mark.parametrize("value", ["1", "1.0", "[]", "{}", "1979-05-27", '"\\u0000"', '"a\\nb"', '"%s"'])
def test_text_key_takes_no_other_type_and_no_odd_text(key: Key, value: str) -> None:
    if value == '"%s"' and key.name == "bridge.profile":
        value = '"/\\t"'

    assert refusal(f"{key.name} = {value}").startswith(f"{key.name} = ")


@pytest.mark.parametrize("key", [key for key in KEYS if isinstance(key.rule, (Choice, Text))], ids=str)
def test_word_key_takes_no_boolean(key: Key) -> None:
    assert refusal(f"{key.name} = true").startswith(f"{key.name} = true: ")


@pytest.mark.parametrize(
    ("value", "word"),
    [("true", "true"), ('"true"', "true"), ("false", "false"), ('"false"', "false"), ('"auto"', "auto")],
)
def test_use_intr_takes_booleans_and_words(value: str, word: str) -> None:
    config = load_text(f"[transport]\nuse_intr = {value}\n", "file.toml")

    assert config.transport.use_intr == config.transport.interrupts == word
    assert load_text(to_toml(config), "again") == config
    assert warnings(config) == []


@pytest.mark.parametrize("value", ['"yes"', "1", '"True"', '""', "[]"])
def test_use_intr_takes_nothing_else(value: str) -> None:
    assert '"auto", true or false' in refusal(f"[transport]\nuse_intr = {value}\n")


@pytest.mark.covers("EDMA 92")
def test_use_msi_is_a_deprecated_name_of_use_intr_with_one_warning() -> None:
    config = load_text("[transport]\nuse_msi = false\n", "file.toml")

    assert (config.transport.use_intr, config.transport.interrupts) == ("auto", "false")
    assert warnings(config) == ["transport.use_msi = false: deprecated, the key is transport.use_intr"]


def test_both_names_must_agree() -> None:
    text = "[transport]\nuse_intr = false\nuse_msi = {}\n"

    assert load_text(text.format("false"), "file.toml").transport.interrupts == "false"
    assert refusal(text.format("true")).startswith("transport.use_msi = true: must be false, as ")


def test_too_few_scratchpads_for_descriptors_are_warned_about() -> None:
    (warning,) = warnings(load_text("[ntb]\nspad_count = 7\n", "file.toml"))

    assert warning.startswith("ntb.spad_count = 7: holds interrupt descriptors of 0 of 1 queues")
    assert warning.endswith("8 scratchpads hold all")
    assert warnings(load_text("[ntb]\nspad_count = 8\n", "file.toml")) == []
    assert warnings(load_text("[ntb]\nspad_count = 7\n[transport]\nuse_intr = false\n", "x")) == []


@pytest.mark.parametrize(
    ("text", "unknown", "nearest"),
    [
        ("[ntb]\nspad_cuont = 6", "ntb.spad_cuont = 6", "ntb.spad_count"),
        ("[ntb]\nqueue = 6", "ntb.queue = 6", "ntb."),
        ("[transport]\nmtu = 1500", "transport.mtu = 1500", "netdev.mtu"),
        ("[nbt]\nspad_count = 6", "nbt = a table", "ntb"),
        ("[node.rc]\nipv5 = 1", "node.rc.ipv5 = 1", "node.rc.ipv"),
        ("[node.xx]", "node.xx = a table", "node.rc"),
        ("[bridge]\nfabrik = 1", "bridge.fabrik = 1", "bridge.fabric"),
        ("mtu = 1500", "mtu = 1500", "netdev.mtu"),
    ],
)
def test_unknown_key_is_named_with_the_nearest_known_one(text: str, unknown: str, nearest: str) -> None:
    assert refusal(text).startswith(f"{unknown}: unknown key; the nearest known one is {nearest}")


def test_unknown_key_like_no_other_is_named_alone() -> None:
    assert refusal('"zz\\nqq" = 1') == "'zz\\nqq' = 1: unknown key"


def test_unknown_key_hides_nothing_else() -> None:
    text = "[bridge]\nfoo = 1\nfabric = 'shared'\n[ntb]\nfoo = 1\ndb_count = 33\nmw2_offset = 0xE0000\n"

    assert [violation.key for violation in check_text(text, "x").violations] == [
        *("bridge.foo", "bridge.fabric", "ntb.foo", "ntb.db_count", "ntb.mw2_offset")
    ]


@pytest.mark.parametrize("text", ["ntb = 1", "ntb = [1]", "[[ntb]]", 'node.rc = "x"'])
def test_section_that_is_no_table_is_refused(text: str) -> None:
    assert refusal(text).endswith("must be a table")


@pytest.mark.parametrize(
    "text",
    [
        "[",
        "a = ",
        "a = 1\na = 2",
        "a = 1\n[a]",
        "x" * 100_000,
        "a = " + "[" * 100_000,
        "a = " + "9" * 5000,
        "\x00",
    ],
    ids=["bracket", "no value", "twice", "both", "long", "deep", "digits", "nul"],
)
def test_text_that_is_no_toml_is_refused_in_one_short_line(text: str) -> None:
    assert len(refusal(text)) < 200


def test_huge_value_is_cut_in_the_message() -> None:
    assert len(refusal(f'log.level = "{"a" * 100_000}"')) < 200
    assert len(refusal(f"ntb.mw1 = 0x{'f' * 10_000}")) < 200


@given(st.text(max_size=200))
def test_any_text_gives_a_configuration_or_one_line(text: str) -> None:
    problem = "one line"
    try:
        load_text(text, "x")
    except ConfigError as error:
        problem = str(error)

    assert len(problem.splitlines()) == 1


@pytest.mark.parametrize(
    ("values", "key", "says"),
    [
        (
            {"node__ep__ipv4": '"10.78.0.2/24"'},
            "node.ep.ipv4",
            "must be in the subnet of node.rc.ipv4, 10.77.0.0/24",
        ),
        ({"node__ep__ipv4": '"10.77.0.2/25"'}, "node.ep.ipv4", "must be in the subnet"),
        ({"node__ep__ipv4": '"10.77.0.1/24"'}, "node.ep.ipv4", "must differ from node.rc.ipv4"),
        ({"node__ep__ipv6": '"fd77:0::1/64"'}, "node.ep.ipv6", "must differ from node.rc.ipv6"),
        ({"node__ep__ipv6": '"fd78::2/64"'}, "node.ep.ipv6", "must be in the subnet"),
        ({"node__rc__ipv4": '"fd77::1/64"'}, "node.rc.ipv4", "must be an IPv4 address"),
        ({"node__rc__ipv6": '"10.77.0.1/24"'}, "node.rc.ipv6", "must be an IPv6 address"),
        ({"node__rc__ipv4": '"10.77.0.256/24"'}, "node.rc.ipv4", "must be an IPv4 address"),
        ({"node__rc__ipv4": '"10.77.0.1/33"'}, "node.rc.ipv4", "must be an IPv4 address"),
        ({"node__rc__ipv4": '"10.77.0.1/31"'}, "node.rc.ipv4", "prefix length must be 8..30"),
        ({"node__rc__ipv6": '"fd77::1/127"'}, "node.rc.ipv6", "prefix length must be 16..126"),
        ({"node__rc__ipv4": '"10.77.0.0/24"'}, "node.rc.ipv4", "must not be the first or the broadcast"),
        ({"node__rc__ipv4": '"10.77.0.255/24"'}, "node.rc.ipv4", "must not be the first or the broadcast"),
        ({"node__rc__ipv6": '"fd77::/64"'}, "node.rc.ipv6", "must not be the first or the broadcast"),
        ({"node__rc__ipv4": '"127.0.0.1/24"'}, "node.rc.ipv4", "must not be a loopback"),
        ({"node__rc__ipv4": '"224.0.0.1/24"'}, "node.rc.ipv4", "must not be a loopback, multicast"),
        ({"node__rc__ipv6": '"fe80::1/64"'}, "node.rc.ipv6", "link-local"),
        ({"node__rc__ipv4": '"10.77.0.1"'}, "node.rc.ipv4", "address with prefix"),
        ({"node__rc__ipv4": "'10.77.0.1/24\n'"}, "not valid TOML", ""),
        ({"timing__liveness_ms": "899"}, "timing.liveness_ms", "must be 900..10000 ms"),
        ({"timing__heartbeat_ms": "400"}, "timing.liveness_ms", "must be 1200..10000 ms"),
        (
            {"supervisor__restart_backoff_max_ms": "49"},
            "supervisor.restart_backoff_max_ms",
            "must be 50..60000",
        ),
        ({"netdev__tun": '"0123456789abcdef"'}, "netdev.tun", "at most 15 characters"),
        ({"netdev__tun": '"lo"'}, "netdev.tun", "not lo, all or default"),
        ({"netdev__tun": '"a/b"'}, "netdev.tun", "an interface name"),
        ({"netdev__tun": '"ntb%d"'}, "netdev.tun", "an interface name"),
        ({"run__dir": '"run"'}, "run.dir", "an absolute path"),
        ({"run__dir": '"/run/../etc"'}, "run.dir", "an absolute path"),
        ({"run__dir": f'"/{"a" * 64}"'}, "run.dir", "at most 64 characters"),
        ({"log__dir": '"/.."'}, "log.dir", "an absolute path"),
        ({"bridge__profile": '"rk9999"'}, "bridge.profile", "rk3588, or the path"),
        ({"bridge__profile": '"../../etc/passwd"'}, "bridge.profile", "a path cannot be read here"),
    ],
)
def test_rule_that_joins_keys_names_key_and_range(values: dict[str, str], key: str, says: str) -> None:
    message = refusal(toml(**values))

    assert message.startswith(key)
    assert says in message


@pytest.mark.parametrize("path", ["/a", "/var/run/ntb.1/x-y_z+", "/run/a..b", "/" + "a" * 63])
def test_ordinary_paths_are_accepted(path: str) -> None:
    assert load_text(f'run.dir = "{path}"', "x").run.dir == path


@pytest.mark.covers("NTB 166")
def test_mtu_above_the_frame_says_which_headers_take_the_rest() -> None:
    assert "must be an integer 1280..65510 bytes" in refusal("netdev.mtu = 65511")

    message = refusal(toml(transport__transport_mtu="9026", netdev__mtu="9001"))

    assert message.startswith("netdev.mtu = 9001: must be 1280..9000 bytes: a frame of 9026 bytes")
    assert "12-byte frame header and 14-byte Ethernet header" in message
    assert load_text(toml(transport__transport_mtu="9026", netdev__mtu="9000"), "x").netdev.mtu == 9000


def test_small_window_lowers_the_largest_mtu() -> None:
    assert refusal("ntb.mw1 = 0x20000").startswith("netdev.mtu = 65510: must be 1280..65508 bytes")


def test_queues_that_share_a_window_lower_the_largest_mtu() -> None:
    message = refusal("transport.max_num_clients = 8")

    assert message.startswith("netdev.mtu = 65510: must be 1280..61412 bytes: a frame of 61438 bytes")


def test_window_too_small_for_the_least_mtu_is_refused() -> None:
    message = refusal(toml(ntb__mw1="4096", transport__max_num_clients="4", netdev__mtu="1280"))

    assert message.startswith("ntb.mw1 = 0x1000: a frame has 510 bytes")


def test_smallest_window_carries_packets_when_its_ring_may_be_filled() -> None:
    small = {"ntb__mw1": "0x1000", "netdev__mtu": "1280", "transport__transport_mtu": "1306"}

    assert load_text(toml(**small, netdev__tx_stop="2"), "x").ntb.mw1 == 0x1000
    warning = warnings(load_text(toml(**small, netdev__tx_stop="3"), "x"))[0]
    assert warning.startswith("ntb.mw1 = 0x1000: nothing is ever sent")
    assert warning.endswith("0x2000..0xf0000 bytes avoid that")


def test_window_may_take_half_of_the_aperture_and_no_more() -> None:
    alone = "ntb.num_mws = 1\n"

    assert load_text(alone + "ntb.mw1 = 0x200000", "x").ntb.mw1 == 0x200000
    assert "behind the outbound aperture" in refusal(alone + "ntb.mw1 = 0x201000")


def test_bars_of_the_default_are_those_of_the_cover_letter(defaults: Config) -> None:
    assert (defaults.bars.ctrl, defaults.bars.mw1, defaults.bars.db) == (0, 2, 4)


@pytest.mark.covers("NTB 30")
def test_doorbell_bar_is_assigned_behind_the_ones_that_are_given() -> None:
    config = load_text(toml(ntb__ctrl_bar="-1", ntb__mw1_bar="2", ntb__db_bar="-1"), "x")

    assert (config.bars.ctrl, config.bars.mw1, config.bars.db) == (0, 2, 4)


def test_bars_assigned_in_the_kernels_order_put_the_window_on_the_small_bar() -> None:
    message = refusal(toml(ntb__num_mws="1", ntb__ctrl_bar="-1", ntb__mw1_bar="-1", ntb__db_bar="-1"))

    assert message.startswith("ntb.mw1_bar = -1: BAR4 of profile r-car-s4 is fixed at 256 bytes")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ntb__mw1_bar": "0"}, "ntb.mw1_bar = 0: must differ from ntb.ctrl_bar"),
        ({"ntb__db_bar": "2"}, "ntb.mw1_bar = 2: must differ from ntb.db_bar"),
        (
            {"ntb__ctrl_bar": "1"},
            "ntb.ctrl_bar = 1: BAR1 of profile r-car-s4 is upper: must be one of 0, 2, 4, or -1",
        ),
        (
            {"ntb__db_bar": "5"},
            "ntb.db_bar = 5: BAR5 of profile r-car-s4 is reserved: must be one of 0, 2, 4, or -1",
        ),
        (
            {"ntb__ctrl_bar": "4", "ntb__db_bar": "0"},
            (
                "ntb.ctrl_bar = 4: BAR4 of profile r-car-s4 is fixed at 256 bytes: "
                "must be one of at least 1360 bytes"
            ),
        ),
    ],
)
def test_bar_that_does_not_fit_is_refused(values: dict[str, str], message: str) -> None:
    assert refusal(toml(**values)) == message


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (
            {"ntb__mw1": "0x70000"},
            "a ring of 6 entries that was full is woken by its timer only; 0xb1000 bytes",
        ),
        ({"transport__max_mw_size": "0x70000"}, "a ring of 6 entries"),
        (
            {"transport__transport_mtu": "65535", "netdev__mtu": "1500"},
            "frames of 65535 bytes, not a multiple of 4",
        ),
    ],
)
def test_ring_that_will_limp_is_warned_about(values: dict[str, str], says: str) -> None:
    (warning,) = warnings(load_text(toml(**values), "x"))

    assert says in warning


@pytest.mark.covers("HAZARD 10.32")
@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"ntb__mw1": "0x50000"}, ("ntb.mw1 = 0x50000", 4, "0x61000..0xf0000 bytes avoid that")),
        (
            {"transport__max_mw_size": "0x50000"},
            ("transport.max_mw_size = 0x50000", 4, "0x61000..0xf0000 bytes, or 0, avoid that"),
        ),
        (
            {"transport__max_mw_size": "0x40000", "ntb__mw1": "0x50000"},
            ("ntb.mw1 = 0x50000", 3, "0x61000..0xf0000 bytes avoid that"),
        ),
        (
            {"netdev__tx_stop": "64"},
            ("netdev.tx_stop = 64", 14, "1..13, or a smaller transport.transport_mtu, avoids that"),
        ),
    ],
)
def test_ring_that_never_transmits_is_warned_about(
    values: dict[str, str], says: tuple[str, int, str]
) -> None:
    (warning,) = warnings(load_text(toml(**values), "x"))

    key, entries, remedy = says
    assert warning.startswith(f"{key}: nothing is ever sent, a ring of {entries} frames of 65536 bytes")
    assert warning.endswith(f"free entries of netdev.tx_stop; {remedy}")


def test_range_named_for_a_ring_is_the_one_that_works() -> None:
    silent = "nothing is ever sent"

    assert any(silent in warning for warning in warnings(load_text("ntb.mw1 = 0x60000", "x")))
    assert not any(silent in warning for warning in warnings(load_text("ntb.mw1 = 0x61000", "x")))
    assert load_text("ntb.mw1 = 0xf0000", "x").ntb.mw1 == 0xF0000
    assert refusal("ntb.mw1 = 0xf1000").startswith("ntb.mw2_offset = 0xf0000")


@pytest.mark.covers("HAZARD 10.38")
def test_queue_count_that_only_one_side_would_take_is_refused() -> None:
    message = refusal(
        toml(
            ntb__db_count="8",
            transport__max_num_clients="8",
            netdev__mtu="1500",
            transport__transport_mtu="2000",
        )
    )

    assert message == (
        "ntb.db_count = 8: rc takes 8 queues and ep 1, so the handshake never completes: "
        "must be at least 12 slots for 8 queues"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"ntb__mw1": "0xe0000"},
        {"ntb__spad_count": "127"},
        {"ntb__db_count": "15"},
        {"ntb__num_mws": "1"},
        {"ntb__ctrl_layout": '"classic"', "ntb__num_mws": "1"},
        {"ntb__inbound": '"submap"'},
        {"ntb__mw2_target": '"none"', "netdev__mtu": "1500"},
        {"ntb__mw2": "0x4000"},
        {"ntb__mw2_offset": "0xF4000"},
        {"ntb__ctrl_bar": "2", "ntb__mw1_bar": "0", "ntb__mw2_bar": "0"},
        {"ntb__db_bar": "0"},
        {"transport__transport_mtu": "9026", "netdev__mtu": "9000"},
        {"transport__max_num_clients": "1"},
        {"transport__max_mw_size": "0xe0000"},
        {"netdev__mtu": "1500"},
        {"netdev__offloads": "false"},
        {"netdev__queues": "2", "transport__max_num_clients": "2", "transport__transport_mtu": "32768"}
        | {"netdev__mtu": "1500"},
    ],
    ids="-".join,
)
def test_shared_identity_tells_ends_apart_that_cannot_talk(change: dict[str, str], defaults: Config) -> None:
    assert shared_identity(load_text(toml(**change), "x")) != shared_identity(defaults)


def test_shared_identity_leaves_each_end_what_is_its_own(defaults: Config) -> None:
    own = load_text(
        toml(log__level='"debug"', netdev__tun='"other"', timing__heartbeat_ms="100", netdev__tx_stop="1"),
        "x",
    )

    assert shared_identity(own) == shared_identity(defaults)


def test_window_size_named_by_a_warning_is_enough() -> None:
    config = load_text("ntb.mw1 = 0x70000", "x")
    assert len(warnings(config)) == 1

    assert warnings(load_text("ntb.mw1 = 0xb1000", "x")) == []


def test_written_configuration_is_complete_and_reads_back_equal() -> None:
    config = load_text(
        toml(ntb__mw1="0xe0000", ntb__db_bar="-1", netdev__mtu="1280", log__level='"debug"', log__dir='"/a"'),
        "x",
    )

    text = to_toml(config)

    assert load_text(text, "again") == config
    assert tomllib.loads(text) == to_dict(config)


@given(st.data())
def test_any_accepted_configuration_reads_back_equal(data: st.DataObject) -> None:
    values = {
        "timing__completion_timeout_ms": data.draw(st.integers(20, 10000)),
        "ntb__spad_count": data.draw(st.integers(6, 1024)),
        "ntb__vendor_id": data.draw(st.integers(1, 0xFFFE)),
        "netdev__mtu": data.draw(st.integers(1280, 65510)),
        "ntb__mw1": data.draw(st.integers(0x61, 0xF0)) * 0x1000,
    }

    config = load_text(toml(**{name: str(value) for name, value in values.items()}), "x")

    assert load_text(to_toml(config), "again") == config


def test_profile_may_be_a_path_that_the_caller_reads() -> None:
    asked = []

    def read(path: str) -> str:
        asked.append(path)
        return shipped("r-car-s4").replace('"r-car-s4"', '"mine"')

    config = load_text('bridge.profile = "boards/mine.toml"', "x", read)

    assert asked == ["boards/mine.toml"]
    assert config.profile.name == "mine"


def test_profile_that_cannot_be_read_is_a_configuration_error() -> None:
    def read(path: str) -> str:
        raise FileNotFoundError(2, "No such file or directory", path)

    with pytest.raises(ConfigError, match=r"^x: bridge.profile = 'a.toml': cannot be read: .*No such file"):
        load_text('bridge.profile = "a.toml"', "x", read)


def test_memory_that_reaches_into_another_region_is_refused() -> None:
    text = shipped("r-car-s4").replace("dram_base = 0x48000000", "dram_base = 0xFC000000")

    with pytest.raises(ConfigError, match=r"endpoint.dram .* and endpoint.aperture .*: must not overlap"):
        load_text('bridge.profile = "a.toml"\nnode.ep.dram_bytes = 0x4000000', "x", lambda _: text)


def test_every_leaf_has_a_type_its_rule_agrees_with() -> None:
    for key in KEYS:
        expected = {Integer: int, Boolean: bool}.get(type(key.rule), str)
        cls: type = Sections
        *path, leaf = key.name.split(".")
        for part in path:
            cls = type(getattr(cls(), part))
        annotation = get_type_hints(cls, include_extras=True)[leaf]
        assert get_args(annotation)[0] is expected


def test_dma_without_its_driver_is_warned_about() -> None:
    both = "[transport]\nuse_dma = true\n"

    assert warnings(load_text(both, "x")) == []
    (warning,) = warnings(load_text(both + "dw_edma = false\n", "x"))
    assert "transport.dw_edma is false" in warning
