"""Two machines in miniature: two network namespaces joined by veth, CURVE between them."""

from __future__ import annotations

import json
import pwd
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ntbnet import topology
from ntbnet.edge import keys
from tests.live.bridge import CLI, ROOT, in_background, new_name, run_command, until
from tests.live.machines import Machine, Pair, machines

pytestmark = [
    pytest.mark.system,
    pytest.mark.needs_tun,
    pytest.mark.slow,
    pytest.mark.timeout(180),
]


@pytest.fixture(scope="module")
def pair(programs: None) -> Iterator[Pair]:
    """Two linked machines for tests that leave them linked."""
    with machines() as pair:
        pair.start()
        pair.wait_for_link()
        yield pair


@pytest.fixture
def linked(pair: Pair) -> Pair:
    pair.rc.cable("up")
    pair.wait_for_link()
    return pair


def epoch(machine: Machine) -> int:
    return int(machine.status()["link"]["epoch"])


def test_ping_crosses_both_ways_over_both_families(linked: Pair) -> None:
    for machine in linked.both:
        for family in ("ipv4", "ipv6"):
            machine.ping(family)
        assert " 0% packet loss" in machine.cli("ping", "--count", "2").stdout


def test_each_machine_shows_its_own_node_only(linked: Pair) -> None:
    for machine in linked.both:
        status = machine.status()

        assert [row["name"] for row in status["services"]] == list(topology.services_of([machine.node]))
        assert status["machine"] == {
            "nodes": [machine.node],
            "peer": machine.config.machine.peer,
            "refusals": [],
        }
        assert status["nodes"][machine.node]["here"]
        assert not status["nodes"][machine.peer_node]["here"]
        assert (machine.run.path / "nodes" / machine.node).exists()
        assert not (machine.run.path / "nodes" / machine.peer_node).exists()
    assert epoch(linked.rc) == epoch(linked.ep)


def test_only_the_four_ports_between_the_nodes_are_open_and_only_to_the_address_given(linked: Pair) -> None:
    for machine in linked.both:
        rows = [line.split() for line in machine.inside("ss", "-Hltn").stdout.splitlines()]
        ports = {
            f"{machine.config.machine.listen}:{machine.config.machine.base_port + number}"
            for number, (_, receiver) in enumerate(topology.CROSSINGS)
            if topology.NODE_OF[receiver] == machine.node
        }

        assert {row[3] for row in rows} == ports


def test_node_of_the_other_machine_is_refused_in_one_line(linked: Pair) -> None:
    rc = linked.rc
    *words, _, _, _ = rc.exec_words("true")

    for done in (rc.cli("ping", "--from", "ep"), run_command(*words, "ep", "--", "true")):
        assert done.returncode == 1, done.stdout
        assert done.stderr == "ntbnet: node ep runs on the other machine, 198.18.0.2; run this there\n"


def test_tcp_crosses_whole(linked: Pair) -> None:
    target = linked.ep.config.node.ep.ipv4.partition("/")[0]
    with in_background(*linked.ep.exec_words("iperf3", "-s", "-1")):
        until(lambda: ":5201" in linked.ep.exec("ss", "-Hltn").stdout, 10, "iperf3 listening in the node")

        done = linked.rc.exec("iperf3", "-c", target, "-t", "2", "--json")

    assert done.returncode == 0, done.stdout
    assert json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"] > 10e6


def test_payload_is_not_readable_on_the_cable(linked: Pair) -> None:
    """What a user sends must not be found in what crosses the veth."""
    word = b"ThisWouldBeReadable"
    with in_background(*linked.rc.moved([*SNIFFER, linked.rc.veth, word.decode()])) as sniffer:
        assert sniffer.stderr is not None
        assert sniffer.stderr.readline() == "listening\n"
        target = linked.ep.config.node.ep.ipv4.partition("/")[0]
        done = linked.rc.exec("ping", "-c", "5", "-i", "0.2", "-p", word[:16].hex(), "-s", "200", target)
        assert done.returncode == 0, done.stdout
        sniffer.terminate()
        seen, found = map(int, sniffer.stderr.readline().split())

    assert seen > 10
    assert found == 0


SNIFFER = (
    sys.executable,
    "-c",
    """
import signal, socket, sys
link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(3))
link.bind((sys.argv[1], 0))
seen = found = 0
def end(*_):
    sys.stderr.write(f"{seen} {found}\\n"); sys.stderr.flush(); sys.exit(0)
signal.signal(signal.SIGTERM, end)
sys.stderr.write("listening\\n"); sys.stderr.flush()
while True:
    packet = link.recv(70000)
    seen += 1
    found += sys.argv[2].encode()[:16] in packet
""",
)


def test_cut_and_healed_cable_comes_back_by_itself(linked: Pair) -> None:
    before = epoch(linked.rc)

    linked.rc.cable("down")
    until(lambda: not any(m.status()["state"] == "up" for m in linked.both), 10, "both see the cut")
    for machine in linked.both:
        assert all(row["restarts"] == 0 for row in machine.status()["services"])
        assert "NO-CARRIER" in machine.exec("ip", "link", "show", machine.config.netdev.tun).stdout
    linked.rc.cable("up")
    linked.wait_for_link(20)

    assert epoch(linked.rc) > before
    linked.rc.ping()
    assert any("silent" in line["reason"] for line in linked.rc.events("path.changed"))


@pytest.mark.parametrize("node", ["rc", "ep"])
def test_machine_killed_whole_comes_back_with_fresh_counters(linked: Pair, node: str) -> None:
    victim, survivor = (linked.rc, linked.ep) if node == "rc" else (linked.ep, linked.rc)
    before = epoch(survivor)

    victim.kill_everything()
    until(lambda: survivor.status()["link"]["state"] == "down", 10, "the survivor sees it")
    assert victim.status()["state"] == "down"
    victim.start()
    linked.wait_for_link()

    assert epoch(survivor) == epoch(victim) > before
    assert all(row["restarts"] == 0 for row in survivor.status()["services"])
    victim.ping()


def test_killed_services_are_replaced_by_their_own_machines(linked: Pair) -> None:
    """One of each machine, at the same time; rc-host alone is killed below."""
    victims = {linked.rc: "peer-rc", linked.ep: "epc"}

    def restarts() -> dict[Machine, dict[str, int]]:
        return {m: {row["name"]: row["restarts"] for row in m.status()["services"]} for m in linked.both}

    expected = {
        machine: rows | {victims[machine]: rows[victims[machine]] + 1} for machine, rows in restarts().items()
    }
    for machine, service in victims.items():
        run_command("kill", "-9", str(machine.run.processes()[service].pid))
    until(lambda: restarts() == expected, 10, f"{victims.values()} replaced, and nobody else")
    linked.wait_for_link()

    assert restarts() == expected
    for machine in linked.both:
        machine.ping()


def test_machine_with_a_wrong_key_is_refused_and_says_so_at_both_ends(programs: None) -> None:
    with machines() as pair:
        (pair.rc.keys / keys.OWN).unlink()
        stranger = keys.make_pair(pair.rc.keys).public
        pair.start()

        until(lambda: pair.ep.events("security.key_refused"), 15, "refusal logged")
        until(lambda: pair.rc.events("security.handshake_failed"), 15, "reason logged where it was refused")

        refused = pair.ep.events("security.key_refused")
        assert {line["key"] for line in refused} == {stranger}
        assert {line["address"] for line in refused} == {"198.18.0.1"}
        # one line a process, however often it is tried again
        until(lambda: pair.ep.security()["epc"]["keys_refused"] > 3, 20, "tried again")
        assert len(pair.ep.events("security.key_refused")) == 1
        status = pair.rc.status()
        assert status["link"]["state"] == "down"
        assert "the other machine does not allow this machine's key" in str(status["machine"]["refusals"])
        shown = pair.ep.cli("status").stdout
        assert f"key {stranger} is not allowed" in shown
        assert pair.rc.exec("ping", "-c", "1", "-W", "1", "10.77.0.2").returncode != 0
        for machine in pair.both:
            assert not any(line["up"] for line in machine.events("link.changed"))


def test_up_in_the_foreground_says_why_the_other_machine_does_not_join_until_it_does(programs: None) -> None:
    with machines() as pair:
        ours = keys.own_pair(pair.rc.keys).public
        keys.forget(pair.ep.keys, "rc")
        keys.allow(pair.ep.keys, "rc", keys.make_pair(pair.rc.folder / "third").public)
        pair.ep.start()
        rc = pair.rc
        words = [*CLI, "up", "--node", "rc", "--name", rc.name, "--config", str(rc.config_path)]

        with in_background(*rc.moved(words)) as process:
            assert process.stderr is not None
            lines = iter(process.stderr.readline, "")
            assert any("the other machine does not allow this machine's key" in line for line in lines)
            pair.ep.cli("down")
            keys.forget(pair.ep.keys, "rc")
            keys.allow(pair.ep.keys, "rc", ours)
            pair.ep.start()
            assert any(line.startswith("link is up, epoch ") for line in lines)
            process.terminate()
            assert process.wait(timeout=20) == 0


def test_machine_that_expects_another_key_of_its_peer_is_not_connected(programs: None) -> None:
    """The other machine is not who it should be: nothing is told to it."""
    with machines() as pair:
        keys.forget(pair.rc.keys, "ep")
        keys.allow(pair.rc.keys, "ep", keys.make_pair(pair.rc.folder / "third").public)
        pair.start()

        until(lambda: pair.rc.events("security.handshake_failed"), 15, "reason logged at rc")
        until(lambda: pair.ep.events("security.handshake_failed"), 15, "reason logged at ep")

        assert "not made for this machine's key" in str(pair.ep.status()["machine"]["refusals"])
        for machine in pair.both:
            assert machine.status()["link"]["state"] == "down"
            assert not any(line["up"] for line in machine.events("link.changed"))


def test_plaintext_is_refused_and_logged(programs: None) -> None:
    with machines() as pair:
        pair.ep.start()

        done = run_command(*pair.rc.moved([sys.executable, "-c", PLAINTEXT, "tcp://198.18.0.2:7500"]))

        assert done.stdout == "refused\n", done.stdout + done.stderr
        until(lambda: pair.ep.events("security.handshake_failed"), 10, "refusal logged")
        assert "plaintext" in pair.ep.events("security.handshake_failed")[0]["cause"]
        (epc,) = (row for row in pair.ep.status()["services"] if row["name"] == "epc")
        assert epc["state"] == "up"
        assert all(path["state"] != "up" for path in epc["paths"] if path["peer"] == "rc-host")


PLAINTEXT = """
import sys, zmq
context = zmq.Context()
socket = context.socket(zmq.PUSH)
monitor = socket.get_monitor_socket(
    zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
)
socket.linger = monitor.linger = 0
socket.connect(sys.argv[1])
from zmq.utils.monitor import recv_monitor_message
assert monitor.poll(10000)
event = recv_monitor_message(monitor)["event"]
print("accepted" if event == zmq.EVENT_HANDSHAKE_SUCCEEDED else "refused")
context.destroy(linger=0)
"""


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("no key", "no such key, and plaintext is refused between machines; make one: ntbnet keys new"),
        ("nobody allowed", "no other machine is allowed"),
        ("open key", "others may read it (mode 0644, owner 0): chmod 600, and owned by this user"),
    ],
)
def test_machine_without_usable_keys_does_not_start(programs: None, damage: str, words: str) -> None:
    with machines(keys=damage != "no key") as pair:
        if damage == "nobody allowed":
            keys.forget(pair.rc.keys, "ep")
        if damage == "open key":
            (pair.rc.keys / keys.OWN).chmod(0o644)

        done = pair.rc.up()

        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert words in done.stderr
        assert not Path(pair.rc.config.run.dir).exists()


def test_services_of_another_user_join_two_machines_and_survive_a_kill(programs: None) -> None:
    with machines('user = "nobody"') as pair:
        pair.start()
        pair.wait_for_link()
        before = epoch(pair.rc)

        run_command("kill", "-9", str(pair.rc.run.processes()["rc-host"].pid))
        until(lambda: pair.is_linked() and epoch(pair.rc) > before, 20, "link in a new epoch")

        pair.rc.ping()
        for machine in pair.both:
            for name in topology.services_of([machine.node]):
                assert _uid(machine.run.processes()[name].pid) == pwd.getpwnam("nobody").pw_uid


def _uid(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("Uid:")))


def test_address_that_this_machine_does_not_have_is_refused(programs: None) -> None:
    with machines() as pair:
        text = pair.rc.config_path.read_text().replace('listen = "198.18.0.1"', 'listen = "203.0.113.7"')
        pair.rc.config_path.write_text(text)

        done = pair.rc.up()

        assert done.returncode == 1
        assert "cannot bind its sockets (Cannot assign requested address" in done.stderr
        assert "machine.listen = 203.0.113.7, ports from machine.base_port = 7500 on" in done.stderr
        assert not Path(pair.rc.config.run.dir).exists()


@pytest.mark.parametrize(
    "words",
    [("demo",), ("bench", "startup", "--quick"), ("bench", "latency", "--quick")],
    ids=["demo", "bench startup", "bench latency"],
)
def test_command_for_both_nodes_refuses_a_configuration_of_one(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    text = (ROOT / "deploy" / "ntbnet-rc.toml").read_text(encoding="utf-8")
    (tmp_path / "rc.toml").write_text(text, encoding="utf-8")

    done = run_command(*CLI, *words, "-c", str(tmp_path / "rc.toml"))

    assert done.returncode == 2
    assert 'machine.node = "rc": must be "both": this command starts both nodes' in done.stderr


@pytest.mark.parametrize(
    ("service", "said"),
    [("epc", "epc belongs to node ep, which runs on the other machine"), ("rc-host", "plaintext is refused")],
)
def test_service_by_hand_refuses_the_other_node_and_plaintext(
    tmp_path: Path, service: str, said: str
) -> None:
    text = (ROOT / "deploy" / "ntbnet-rc.toml").read_text(encoding="utf-8")
    (tmp_path / "rc.toml").write_text(text.replace("/etc/ntbnet", str(tmp_path)), encoding="utf-8")
    module, *arguments = topology.MODULES[service]

    done = run_command(
        *(sys.executable, "-m", module, *arguments),
        *("--config", str(tmp_path / "rc.toml"), "--name", new_name()),
        timeout_s=20,
    )

    assert done.returncode == 2
    assert said in done.stderr


def test_machines_of_different_bridges_say_so_and_stay_apart(programs: None) -> None:
    with machines() as pair:
        text = pair.ep.config_path.read_text()
        pair.ep.config_path.write_text(text + "\n[netdev]\nmtu = 1500\n")
        pair.start()

        def complaints() -> list[str]:
            return [
                line["reason"]
                for line in pair.rc.events("path.changed")
                if line["reason"].startswith("refused")
            ]

        until(complaints, 15, "the difference is logged")
        assert any("mtu" in reason for reason in complaints())
        assert pair.rc.status()["link"]["state"] == "down"
