from __future__ import annotations

import asyncio
import os
import re
import select
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import uvloop

from ntbnet.edge.netns import inside, netns_inode, netns_path, processes_inside
from ntbnet.edge.node import NodeSpec, create_node, exec_in_node, node_exists, remove_node
from ntbnet.edge.rundir import RunDir
from ntbnet.edge.tun import Tun
from ntbnet.errors import ConfigError, SetupError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.system, pytest.mark.needs_tun]


@pytest.fixture
def spec() -> Iterator[NodeSpec]:
    spec = NodeSpec(f"t-{os.getpid()}", "rc", ipv4="10.77.0.1/30", ipv6="fd77::1/64")
    yield spec
    subprocess.run(["ip", "netns", "del", spec.netns], capture_output=True, check=False)


@pytest.fixture
def run(tmp_path: Path, spec: NodeSpec) -> Iterator[RunDir]:
    run = RunDir(tmp_path, spec.bridge)
    yield run
    remove_node(spec, run)
    run.remove()


def ip(spec: NodeSpec, *words: str) -> str:
    done = subprocess.run(["ip", "-n", spec.netns, *words], capture_output=True, text=True, check=True)
    return done.stdout


def namespaces() -> str:
    return subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout


def send_from_node(spec: NodeSpec, family: socket.AddressFamily, address: str) -> None:
    with inside(spec.netns), socket.socket(family, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"across", (address, 9))


def next_packet(tun: Tun) -> bytes:
    ready, _, _ = select.select([tun], [], [], 5)
    assert ready, "no packet within 5 s"
    packet = tun.read()
    assert packet is not None
    return packet


def in_child(action: Callable[[], object]) -> tuple[int, str]:
    """Exit code and message of a SetupError of an action done in a forked child."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 0
        try:
            action()
        except SetupError as error:
            os.write(write_end, str(error).encode())
            code = 1
        finally:
            os._exit(code)
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        said = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said


def test_node_has_a_persistent_tun_with_addresses_routes_and_no_carrier(spec: NodeSpec, run: RunDir) -> None:
    assert create_node(spec, run)

    link = ip(spec, "-d", "link", "show", "ntb0")
    assert "NO-CARRIER" in link
    assert "mtu 65510" in link
    assert "tun type tun pi off vnet_hdr off persist on" in link
    assert re.search(r"inet 10\.77\.0\.1/30 .*ntb0", ip(spec, "addr"))
    assert "fd77::1/64 scope global nodad" in ip(spec, "addr")
    assert "fe80" not in ip(spec, "addr")
    assert "10.77.0.0/30 dev ntb0" in ip(spec, "route")
    assert "fd77::/64 dev ntb0" in ip(spec, "-6", "route")
    assert "LOOPBACK,UP" in ip(spec, "link", "show", "lo")
    assert node_exists(spec)


def test_caller_stays_in_its_own_namespace(spec: NodeSpec, run: RunDir) -> None:
    before = Path("/proc/thread-self/ns/net").stat().st_ino

    create_node(spec, run)
    Tun(spec.netns).close()
    with pytest.raises(SetupError):
        Tun(spec.netns, "absent")
    with pytest.raises(RuntimeError), inside(spec.netns):
        raise RuntimeError

    assert Path("/proc/thread-self/ns/net").stat().st_ino == before


def test_first_packet_with_carrier_is_the_users_in_both_families(spec: NodeSpec, run: RunDir) -> None:
    create_node(spec, run)
    tun = Tun(spec.netns)
    send_from_node(spec, socket.AF_INET, "10.77.0.2")
    assert tun.read() is None

    tun.set_carrier(up=True)
    send_from_node(spec, socket.AF_INET, "10.77.0.2")
    send_from_node(spec, socket.AF_INET6, "fd77::2")

    four, six = next_packet(tun), next_packet(tun)
    assert four[0] >> 4 == 4
    assert four[12:20] == bytes([10, 77, 0, 1, 10, 77, 0, 2])
    assert four.endswith(b"across")
    assert six[0] >> 4 == 6
    assert six[8:40] == socket.inet_pton(socket.AF_INET6, "fd77::1") + socket.inet_pton(
        socket.AF_INET6, "fd77::2"
    )
    tun.close()


def test_carrier_off_and_on_again_loses_no_route(spec: NodeSpec, run: RunDir) -> None:
    create_node(spec, run)
    tun = Tun(spec.netns)
    for _ in range(3):
        tun.set_carrier(up=True)
        tun.set_carrier(up=False)
        send_from_node(spec, socket.AF_INET, "10.77.0.2")
    assert tun.read() is None

    tun.set_carrier(up=True)
    send_from_node(spec, socket.AF_INET6, "fd77::2")

    assert next_packet(tun).endswith(b"across")
    tun.close()


def test_packet_written_by_the_owner_reaches_a_socket_in_the_node(spec: NodeSpec, run: RunDir) -> None:
    create_node(spec, run)
    tun = Tun(spec.netns)
    tun.set_carrier(up=True)
    with inside(spec.netns):
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        receiver.bind(("10.77.0.1", 7777))
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sender.bind(("10.77.0.1", 5555))
    sender.sendto(b"hello", ("10.77.0.2", 7777))
    packet = bytearray(next_packet(tun))
    packet[12:16], packet[16:20] = packet[16:20], packet[12:16]  # swapped: both checksums still hold

    assert tun.write(memoryview(packet))

    receiver.settimeout(5)
    assert receiver.recvfrom(64) == (b"hello", ("10.77.0.2", 5555))
    for end in (receiver, sender, tun):
        end.close()


def test_largest_packet_arrives_whole_in_a_buffer(spec: NodeSpec, run: RunDir) -> None:
    create_node(spec, run)
    tun = Tun(spec.netns)
    tun.set_carrier(up=True)
    buffer = memoryview(bytearray(spec.mtu))
    assert tun.readinto(buffer) == 0
    with inside(spec.netns), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"z" * (spec.mtu - 28), ("10.77.0.2", 9))
    select.select([tun], [], [], 5)

    assert tun.readinto(buffer) == 65510
    assert buffer[28] == buffer[65509] == ord("z")
    tun.close()


@pytest.mark.parametrize("packet", [b"", b"\xff" * 20, bytes(20)])
def test_what_the_kernel_refuses_is_a_drop_not_an_error(spec: NodeSpec, run: RunDir, packet: bytes) -> None:
    create_node(spec, run)
    tun = Tun(spec.netns)

    assert tun.write(packet) is False
    tun.close()


def test_write_to_an_interface_that_is_down_is_a_drop(spec: NodeSpec, run: RunDir) -> None:
    create_node(spec, run)
    tun = Tun(spec.netns)
    ip(spec, "link", "set", "ntb0", "down")

    assert tun.write(b"\x45" + bytes(19)) is False
    tun.close()


def test_second_owner_is_refused_and_told_who_the_first_is(spec: NodeSpec, run: RunDir) -> None:
    other = replace(spec, node="ep")
    create_node(spec, run)
    create_node(other, run)
    elsewhere = Tun(other.netns)
    code, _ = in_child(lambda: Tun(spec.netns))
    assert code == 0, "a free TUN of the same name in another node"
    tun = Tun(spec.netns)

    with pytest.raises(SetupError, match=rf"held by process {os.getpid()} \("):
        Tun(spec.netns)

    tun.close()
    tun.close()
    assert tun.fileno() == -1
    Tun(spec.netns).close()
    elsewhere.close()
    remove_node(other, run)


def test_carrier_drops_when_the_owner_is_killed_and_the_tun_stays(spec: NodeSpec, run: RunDir) -> None:
    create_node(spec, run)

    def own_and_die() -> None:
        tun = Tun(spec.netns)
        tun.set_carrier(up=True)
        os.kill(os.getpid(), signal.SIGKILL)

    code, _ = in_child(own_and_die)

    assert code == -signal.SIGKILL
    assert "NO-CARRIER" in ip(spec, "link", "show", "ntb0")
    tun = Tun(spec.netns)
    tun.set_carrier(up=True)
    send_from_node(spec, socket.AF_INET, "10.77.0.2")
    assert next_packet(tun).endswith(b"across")
    tun.close()


def test_owner_learns_that_the_node_was_removed(spec: NodeSpec, run: RunDir) -> None:
    create_node(spec, run)
    tun = Tun(spec.netns)

    remove_node(spec, run)

    for use in (tun.read, lambda: tun.write(b"\x45" + bytes(19)), lambda: tun.set_carrier(up=True)):
        with pytest.raises(SetupError, match="is gone"):
            use()
    with pytest.raises(SetupError, match="is gone"):
        tun.readinto(memoryview(bytearray(9)))
    tun.close()


def test_removal_leaves_nothing_and_may_be_repeated(spec: NodeSpec, run: RunDir) -> None:
    create_node(spec, run)

    assert remove_node(spec, run)

    assert not remove_node(spec, run)
    assert spec.netns not in namespaces()
    assert not os.path.lexists(netns_path(spec.netns))
    assert run.read_node("rc") is None
    assert not node_exists(spec)


def test_complete_node_is_kept_and_a_changed_one_made_anew(spec: NodeSpec, run: RunDir) -> None:
    create_node(spec, run)
    first = netns_inode(spec.netns)

    assert not create_node(spec, run)
    assert netns_inode(spec.netns) == first

    assert create_node(replace(spec, mtu=1500), run)
    assert "mtu 1500" in ip(spec, "link", "show", "ntb0")


def test_many_makers_at_once_make_one_node(spec: NodeSpec, run: RunDir) -> None:
    with ThreadPoolExecutor(4) as makers:
        made = list(makers.map(lambda _: create_node(spec, run), range(4)))

    assert sorted(made) == [False, False, False, True]


@pytest.mark.parametrize("loop", [asyncio.SelectorEventLoop, uvloop.new_event_loop])
def test_node_can_be_made_inside_a_running_loop(
    spec: NodeSpec, run: RunDir, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def make() -> bool:
        return create_node(spec, run)

    with asyncio.Runner(loop_factory=loop) as runner:
        assert runner.run(make())


def test_taken_namespace_is_refused_and_left_alone(spec: NodeSpec, run: RunDir) -> None:
    subprocess.run(["ip", "netns", "add", spec.netns], check=True)
    inode = netns_inode(spec.netns)

    with pytest.raises(SetupError, match=f"{spec.netns} exists and is not ours") as caught:
        create_node(spec, run)
    assert not remove_node(spec, run)

    assert "\n" not in str(caught.value)
    assert netns_inode(spec.netns) == inode


def test_namespace_that_replaced_ours_is_left_alone(spec: NodeSpec, run: RunDir) -> None:
    create_node(spec, run)
    with inside(spec.netns):
        keeper = os.open("/proc/thread-self/ns/net", os.O_RDONLY)  # keeps the old inode number in use
    subprocess.run(["ip", "netns", "del", spec.netns], check=True)
    subprocess.run(["ip", "netns", "add", spec.netns], check=True)
    inode = netns_inode(spec.netns)

    with pytest.raises(SetupError, match="replaced by somebody"):
        create_node(spec, run)
    remove_node(spec, run)

    assert netns_inode(spec.netns) == inode
    os.close(keeper)


def test_taken_interface_name_is_refused_and_nothing_left(spec: NodeSpec, run: RunDir) -> None:
    taken = replace(spec, tun="lo")

    with pytest.raises(SetupError, match="interface name lo is taken") as caught:
        create_node(taken, run)

    assert "\n" not in str(caught.value)
    assert not os.path.lexists(netns_path(spec.netns))
    assert run.read_node("rc") is None


def test_interface_that_is_no_tun_is_refused(spec: NodeSpec, run: RunDir) -> None:
    create_node(spec, run)

    with pytest.raises(SetupError, match="cannot attach to TUN lo"):
        Tun(spec.netns, "lo")


@pytest.mark.parametrize("leaving", ["note", "dead mount point", "bare namespace"])
def test_what_a_killed_maker_left_is_cleaned_and_made_again(
    spec: NodeSpec, run: RunDir, leaving: str
) -> None:
    run.create()
    run.write_node("rc", {"inode": None})
    if leaving == "bare namespace":
        subprocess.run(["ip", "netns", "add", spec.netns], check=True)
    elif leaving == "dead mount point":
        netns_path(spec.netns).parent.mkdir(exist_ok=True)
        netns_path(spec.netns).touch()

    assert create_node(spec, run)

    assert node_exists(spec)


def test_program_runs_inside_the_node(spec: NodeSpec, run: RunDir) -> None:
    create_node(spec, run)

    code, said = in_child(lambda: exec_in_node(spec, ["ip", "link", "show", "ntb0"]))
    assert (code, said) == (0, "")

    code, said = in_child(lambda: exec_in_node(spec, ["no-such-program"]))
    assert code == 1
    assert said == f"cannot run no-such-program in {spec.netns}: No such file or directory"


def test_processes_inside_the_node_are_found(spec: NodeSpec, run: RunDir) -> None:
    create_node(spec, run)
    assert processes_inside(spec.netns) == []
    with inside(spec.netns):
        child = subprocess.Popen(["sleep", "60"])

    assert processes_inside(spec.netns) == [child.pid]

    child.kill()
    child.wait()


def test_running_without_a_node_says_so(spec: NodeSpec) -> None:
    code, said = in_child(lambda: exec_in_node(spec, ["true"]))

    assert (code, said) == (
        1,
        f"network namespace {spec.netns} does not exist; start the bridge first",
    )


def test_missing_permission_is_named(spec: NodeSpec) -> None:
    def as_nobody() -> None:
        os.setgid(65534)
        os.setuid(65534)
        create_node(spec, RunDir(f"/tmp/ntbnet-test-{os.getpid()}", spec.bridge))

    _, said = in_child(as_nobody)

    assert said == "making network namespaces needs CAP_NET_ADMIN and CAP_SYS_ADMIN; run as root (sudo)"
    for root in Path("/tmp").glob("ntbnet-test-*"):
        RunDir(root, spec.bridge).remove()


def test_missing_device_node_is_named_and_nothing_made(spec: NodeSpec, run: RunDir, tmp_path: Path) -> None:
    program = (
        "import sys; from ntbnet.edge.node import *; from ntbnet.errors import SetupError\n"
        f"try: create_node({spec!r}, RunDir({str(tmp_path)!r}, {spec.bridge!r}))\n"
        "except SetupError as error: print(error)"
    )
    script = 'mount -t tmpfs none /dev/net && exec "$0" -c "$1"'
    command = ["unshare", "-m", "sh", "-c", script, sys.executable, program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert done.stdout.startswith("/dev/net/tun does not exist; modprobe tun")
    assert done.stdout.count("\n") == 1
    assert not os.path.lexists(netns_path(spec.netns))
    run.remove()
    assert not list(Path("/dev/shm").glob(f"ntbnet.{spec.bridge}.*"))


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("bridge", "Lab", "bridge name 'Lab'"),
        ("bridge", "x" * 16, "bridge name"),
        ("node", "host", "node 'host'"),
        ("tun", "ntb/0", "tun 'ntb/0'"),
        ("tun", "x" * 16, "tun"),
        ("mtu", 1279, "mtu 1279: allowed are 1280..65510"),
        ("mtu", 65511, "mtu 65511"),
        ("ipv4", "10.0.0.1", "prefix length missing"),
        ("ipv4", "fd77::1/64", "ipv4 'fd77::1/64'"),
        ("ipv6", "fd77::1/129", "ipv6 'fd77::1/129'"),
    ],
)
def test_bad_specification_names_field_and_value(
    spec: NodeSpec, field: str, value: object, said: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        replace(spec, **{field: value})  # type: ignore[arg-type]  # bad on purpose
