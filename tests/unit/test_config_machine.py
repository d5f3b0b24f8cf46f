"""Section [machine], and the user of services: what is allowed, and what is refused in one line."""

from __future__ import annotations

import pytest

from ntbnet import topology
from ntbnet.config import Config, load_text, to_toml
from ntbnet.errors import ConfigError

GOOD = {"fabric": "message", "node": "rc", "listen": "192.0.2.1", "peer": "192.0.2.2"}


def text(**changed: str) -> str:
    values = {**GOOD, **changed}
    machine = "\n".join(f'{key} = "{value}"' for key, value in values.items() if key != "fabric")
    return f'[bridge]\nfabric = "{values["fabric"]}"\n[machine]\n{machine}\n'


def load(source: str, node: str | None = None) -> Config:
    return load_text(source, "test", node=node)


def test_both_nodes_run_here_unless_told() -> None:
    config = load("")

    assert config.nodes == ("rc", "ep")
    assert not config.is_apart


@pytest.mark.parametrize("node", ["rc", "ep"])
def test_one_node_runs_here(node: str) -> None:
    config = load(text(node=node))

    assert config.nodes == (node,)
    assert config.is_apart
    assert load(to_toml(config)) == config


def test_node_of_the_command_line_takes_the_place_of_the_files() -> None:
    assert load(text(node="both"), node="ep").nodes == ("ep",)
    assert load(text(node="rc"), node="ep").nodes == ("ep",)


@pytest.mark.parametrize("peer", ["192.0.2.2", "2001:db8::2", "::1", "lab-ep.example.org", "ep", "127.0.0.1"])
@pytest.mark.parametrize("listen", ["192.0.2.1", "0.0.0.0", "::", "2001:db8::1"])
def test_addresses_that_machines_have_are_taken(listen: str, peer: str) -> None:
    config = load(text(listen=listen, peer=peer))

    assert (config.machine.listen, config.machine.peer) == (listen, peer)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"fabric": "local"}, 'bridge.fabric = "local": must be "message" with machine.node = "rc"'),
        ({"listen": ""}, 'machine.listen = "": must be an IPv4 or IPv6 address of this machine'),
        ({"listen": "lab-rc"}, 'machine.listen = "lab-rc": must be an IPv4 or IPv6 address'),
        ({"listen": "224.0.0.1"}, 'machine.listen = "224.0.0.1": must be an IPv4 or IPv6 address'),
        ({"listen": "1.2.3"}, 'machine.listen = "1.2.3": must be an IPv4 or IPv6 address'),
        ({"peer": ""}, 'machine.peer = "": must be the address or host name of the other machine'),
        ({"peer": "0.0.0.0"}, 'machine.peer = "0.0.0.0": must be the address or host name'),
        ({"peer": "::"}, 'machine.peer = "::": must be the address or host name'),
        ({"peer": "999.1.1.1"}, 'machine.peer = "999.1.1.1": must be the address or host name'),
        ({"peer": "ff02::1"}, 'machine.peer = "ff02::1": must be the address or host name'),
        ({"peer": "a:b"}, 'machine.peer = "a:b": must be the address or host name'),
        ({"peer": "a b"}, "machine.peer = 'a b': must be an IPv4 or IPv6 address, a host name, or empty"),
        ({"peer": "tcp://x;y"}, "machine.peer = 'tcp://x;y': must be"),
        ({"peer": "-x"}, "machine.peer = '-x': must be"),
        ({"node": "host"}, 'machine.node = \'host\': must be "both" or "rc" or "ep"'),
        ({"keys": "keys"}, "machine.keys = 'keys': must be an absolute path"),
        ({"keys": "/etc/../x"}, "machine.keys = '/etc/../x': must be an absolute path"),
        ({"peer_key": "../x"}, "machine.peer_key = '../x': must be a name as given to ntbnet keys allow"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(changed: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        load(text(**changed))

    assert str(refusal.value).startswith(f"test: {words}")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("port", [1023, 65001])
def test_port_out_of_range_is_refused(port: int) -> None:
    with pytest.raises(ConfigError, match=rf"machine\.base_port = {port}: must be an integer 1024\.\.65000"):
        load(f"[machine]\nbase_port = {port}\n")


@pytest.mark.parametrize("user", ["a b", "Root", "../x", "1x", "x" * 33])
def test_malformed_user_is_refused(user: str) -> None:
    with pytest.raises(ConfigError, match=r"run\.user = .*must be the name of a user"):
        load(f'[run]\nuser = "{user}"\n')


def test_only_the_paths_between_the_nodes_cross_each_on_a_port_of_its_own() -> None:
    assert set(topology.CROSSINGS) == {
        ("rc-host", "epc"),
        ("epc", "rc-host"),
        ("epc", "peer-rc"),
        ("peer-rc", "epc"),
    }
    ports = [topology.crossing_endpoint(*pair, "192.0.2.2", 7500) for pair in topology.CROSSINGS]
    assert ports == [f"tcp://192.0.2.2:{7500 + number}" for number in range(4)]
    assert topology.crossing_endpoint("rc-host", "epc", "2001:db8::2", 65000) == "tcp://[2001:db8::2]:65000"


def test_services_of_both_nodes_are_all_services() -> None:
    assert topology.services_of(("rc", "ep")) == topology.SERVICES
    assert topology.services_of(("rc",)) == ("rc-host", "peer-rc")
    assert topology.services_of(("ep",)) == ("epc", "edma", "peer-ep")
