from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntbnet.address import BusAddr
from ntbnet.devices.msi import MsiCapability, MsiTarget, encode_vectors
from ntbnet.errors import KernelError
from ntbnet.regs.cfgspace import config_block
from ntbnet.regs.file import RegisterFile

ADDRESS = 0x1_F104_0040


def function(capable: int | None = 16, *, msi: bool = True) -> tuple[RegisterFile, MsiCapability]:
    config = RegisterFile(config_block(msi=msi))
    capability = MsiCapability(config)
    if capable is not None:
        capability.set_msi(capable)
    return config, capability


def bus_write(config: RegisterFile, name: str, value: int) -> None:
    width = config.block.register(name).width_bytes
    config.write(config.block.offset(name), value.to_bytes(width, "little"))


def host_enables(config: RegisterFile, multiple_enable: int, data: int = 0x40) -> None:
    bus_write(config, "MSI_ADDRESS_LOW", ADDRESS & 0xFFFFFFFF)
    bus_write(config, "MSI_ADDRESS_HIGH", ADDRESS >> 32)
    bus_write(config, "MSI_DATA", data)
    bus_write(config, "MSI_CONTROL", multiple_enable << 4 | 1)
    bus_write(config, "COMMAND", 0x6)


@pytest.mark.parametrize(("count", "field"), [(1, 0), (2, 1), (3, 2), (4, 2), (16, 4), (17, 5), (32, 5)])
def test_offered_vectors_are_rounded_up_to_a_power_of_two(count: int, field: int) -> None:
    config, _ = function(count)

    assert config.get_field("MSI_CONTROL", "MULTIPLE_CAPABLE") == field
    assert encode_vectors(count) == field


@pytest.mark.parametrize("count", [0, 33, -1])
def test_offering_no_or_more_than_32_vectors_is_refused(count: int) -> None:
    _, capability = function(None)

    with pytest.raises(KernelError) as caught:
        capability.set_msi(count)
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(ValueError, match=r"allowed 1\.\.32"):
        encode_vectors(count)


@pytest.mark.covers("EDMA 53", "EDMA 75")
def test_vector_number_is_one_above_the_low_bits_of_the_data() -> None:
    config, capability = function()
    host_enables(config, multiple_enable=4)

    assert capability.compose(1) == (ADDRESS, 0x40)
    assert capability.compose(3) == (ADDRESS, 0x42)
    assert capability.compose(16) == (ADDRESS, 0x4F)


@pytest.mark.covers("EDMA 54")
@pytest.mark.parametrize("present", [False, True])
def test_raise_without_offered_msi_is_einval(present: bool) -> None:
    _, capability = function(None, msi=present)

    with pytest.raises(KernelError) as caught:
        capability.compose(1)
    assert caught.value.errno == errno.EINVAL


def test_function_without_the_capability_cannot_offer_vectors() -> None:
    _, capability = function(None, msi=False)

    with pytest.raises(KernelError) as caught:
        capability.set_msi(1)
    assert caught.value.errno == errno.EINVAL


@pytest.mark.covers("HAZARD 10.31")
def test_number_above_the_hosts_grant_is_an_error_and_not_a_foreign_vector() -> None:
    config, capability = function(16)
    host_enables(config, multiple_enable=2)

    assert capability.granted == 4
    assert capability.compose(4) == (ADDRESS, 0x43)
    with pytest.raises(KernelError) as caught:
        capability.compose(5)
    assert caught.value.errno == errno.EINVAL


def test_number_zero_is_an_error() -> None:
    config, capability = function()
    host_enables(config, multiple_enable=4)

    with pytest.raises(KernelError):
        capability.compose(0)


def test_nothing_is_sent_while_msi_is_off() -> None:
    config, capability = function()
    host_enables(config, multiple_enable=4)

    bus_write(config, "MSI_CONTROL", 4 << 4)

    assert capability.granted == 0
    assert capability.compose(1) is None


@pytest.mark.covers("EDMA 63")
def test_nothing_is_sent_while_bus_mastering_is_off() -> None:
    config, capability = function()
    host_enables(config, multiple_enable=4)

    bus_write(config, "COMMAND", 0x2)

    assert capability.compose(1) is None


def test_grant_above_the_offer_counts_as_the_offer() -> None:
    config, capability = function(2)
    host_enables(config, multiple_enable=5)

    assert capability.granted == 2


@pytest.mark.covers("EDMA 164")
def test_hot_reset_turns_msi_off_and_keeps_the_offer() -> None:
    config, capability = function(16)
    host_enables(config, multiple_enable=4)

    config.reset_bus_written()

    assert capability.compose(1) is None
    assert config.get("MSI_ADDRESS_LOW") == 0
    assert config.get_field("MSI_CONTROL", "MULTIPLE_CAPABLE") == 4


def test_host_grants_no_more_than_it_has_or_was_offered() -> None:
    target = MsiTarget(BusAddr(ADDRESS), max_vectors=8)

    assert target.grant(multiple_capable=4) == 3
    assert target.granted == 8
    assert target.grant(multiple_capable=1) == 1
    assert target.granted == 2
    with pytest.raises(ValueError, match=r"allowed 0\.\.5"):
        target.grant(multiple_capable=6)


@pytest.mark.parametrize(
    ("addr", "data", "length"),
    [
        (ADDRESS + 4, 0x40, 4),
        (ADDRESS, 0x3F, 4),
        (ADDRESS, 0x50, 4),
        (ADDRESS, 0x0001_0040, 4),
        (ADDRESS, 0x40, 2),
        (ADDRESS, 0x40, 8),
    ],
)
def test_write_that_is_no_interrupt_of_the_function(addr: int, data: int, length: int) -> None:
    target = MsiTarget(BusAddr(ADDRESS), max_vectors=16, first_data=0x40)
    target.grant(multiple_capable=4)

    assert target.vector_of(addr, data, length) is None


def test_nothing_is_an_interrupt_before_the_grant_and_after_reset() -> None:
    target = MsiTarget(BusAddr(ADDRESS), max_vectors=16)
    assert target.vector_of(ADDRESS, 0) is None

    target.grant(multiple_capable=4)
    assert target.vector_of(ADDRESS, 0) == 0

    target.reset()
    assert target.vector_of(ADDRESS, 0) is None


@pytest.mark.parametrize(
    ("address", "vectors", "data"),
    [(2, 16, 0), (-4, 16, 0), (0, 12, 0), (0, 64, 0), (0, 16, 8), (0, 16, 0x10000)],
)
def test_target_whose_data_would_collide_is_refused(address: int, vectors: int, data: int) -> None:
    with pytest.raises(ValueError, match="MSI"):
        MsiTarget(BusAddr(address), vectors, data)


@given(capable=st.integers(1, 32), grantable=st.sampled_from([1, 2, 4, 8, 16, 32]), slot=st.integers(0, 2047))
def test_raised_vector_is_the_one_that_arrives(capable: int, grantable: int, slot: int) -> None:
    config, capability = function(capable)
    target = MsiTarget(BusAddr(ADDRESS), grantable, first_data=slot * 32)
    enable = target.grant(config.get_field("MSI_CONTROL", "MULTIPLE_CAPABLE"))
    host_enables(config, enable, target.first_data)

    arrived = [capability.compose(number) for number in range(1, target.granted + 1)]

    assert [target.vector_of(*write) for write in arrived if write is not None] == list(range(target.granted))
