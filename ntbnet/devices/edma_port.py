"""What a channel of the eDMA engine has of its engine, and why it may end early."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Protocol

from ntbnet.wire import Status

if TYPE_CHECKING:
    from ntbnet.devices.edma_walk import Channel


class Fault(Enum):
    """Why a channel aborts; the value names it in the log."""

    LOCAL = "outside endpoint memory"
    FETCH = "list outside endpoint memory"
    UNSUPPORTED = "unsupported request"
    COMPLETER_ABORT = "completer abort"
    TIMEOUT = "completion timeout"
    LINK = "link went down"
    STOPPED = "stopped by software"


FAULT_OF = {Status.UR: Fault.UNSUPPORTED, Status.CA: Fault.COMPLETER_ABORT, Status.TIMEOUT: Fault.TIMEOUT}


class Port(Protocol):
    """What a channel has of its engine."""

    @property
    def is_open(self) -> bool:
        """True while the link is up and the host lets the endpoint be a bus master."""

    def post(self, addr: int, data: bytes) -> None:
        """Send a posted write."""

    def has_room(self) -> bool:
        """True while another read may be outstanding."""

    def read(self, channel: Channel, addr: int, size: int, cookie: int) -> None:
        """Send a read; ``channel.on_data`` or ``channel.fail`` follows."""

    def forget(self, channel: Channel) -> None:
        """Answers to this channel's reads are not wanted any more."""

    def done(self, channel: Channel, control: int) -> None:
        """Elements with these interrupt bits are complete, data and all."""

    def aborted(self, channel: Channel, fault: Fault, control: int) -> None:
        """The channel has ended early; ``control`` is that of the element under way."""
