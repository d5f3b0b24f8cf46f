"""Fabric ``local``: what the endpoint controller grants its two sides for direct stores (see ``direct``).

The host may store where its BARs and the inbound windows lead: to the client's memory, to the doorbell
words, and to the registers of the eDMA engine and of the EP's MSI controller. The EP's CPU may store where
the outbound windows lead, as far as the host grants that part of its own memory; its doorbell bits become
the host's MSI vectors. MSI-X doorbells stay messages: their table lies in memory, and may change.

Who has nothing to do with a change hears nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ntbnet.address import Span
from ntbnet.devices.direct import MEMORY, Grant, from_body, to_body, undisputed, within
from ntbnet.devices.epc import Epc
from ntbnet.devices.memory import Window
from ntbnet.errors import KernelError, PeerError
from ntbnet.regs.ntb_ctrl import slot_of_db_bit

CONTROLLER = "epc"
Say = Callable[[dict[str, Any]], None]


class EpcGrants:
    """Composes grants anew after each change, and tells of them when they differ from the last ones.

    Args:
        memory: the parts of EP DRAM that may be granted, as windows.
        dram: all of EP DRAM.
        ident: which memory that is.
        registers: CPU addresses of registers and the service that owns them.
        db_bits: doorbell bits of the host.
    """

    def __init__(
        self,
        epc: Epc,
        dram: Window,
        ident: int,
        memory: list[Span],
        registers: list[tuple[Span, str]],
        db_bits: int,
    ) -> None:
        self._epc = epc
        self._ident = ident
        base = dram.span.base
        self._behind = [Grant(span.base, span.size, MEMORY, span.base - base) for span in memory]
        self._behind += [Grant(span.base, span.size, owner, span.base) for span, owner in registers]
        self._db_bits = db_bits
        self._of_host: tuple[Grant, ...] = ()
        self._host_ident = 0
        self._host_msi: tuple[int, int, int] = (0, 0, 0)
        self._told: dict[str, dict[str, Any]] = {}
        self.is_stale = True

    def reset(self) -> None:
        """A link began or ended: nothing is granted, and both sides know it."""
        self._of_host, self._host_ident, self._host_msi = (), 0, (0, 0, 0)
        self._told.clear()
        self.is_stale = True

    def on_host(self, args: dict[str, Any]) -> None:
        """The host grants its own memory, by bus address, and says what its MSIs look like.

        Raises:
            PeerError: it cannot be; nothing of the host's is granted then.
        """
        self.is_stale = True
        self._of_host = ()
        msi, ident = args.get("msi"), args.get("memory")
        if type(ident) is not int or not isinstance(msi, list) or [type(part) for part in msi] != [int] * 3:
            raise PeerError(f"grants of the host: memory {ident!r:.40}, msi {msi!r:.40}")
        # the size of its memory is the client's to check, which maps it
        self._of_host = from_body(args.get("ranges"), 1 << 64)
        self._host_ident, self._host_msi = ident, (msi[0], msi[1], msi[2])

    def publish(self, to_host: Say | None, to_client: Say | None) -> None:
        """Tell whoever is there (not None) of grants that changed since it was told last."""
        self.is_stale = False
        if to_host is not None:
            grants = [
                # a store to the controller's own registers is a bus access like any other
                replace(grant, at=grant.base) if grant.owner == CONTROLLER else grant
                for grant in within(self._behind, self._epc.inbound_ranges())
            ]
            self._tell("host", to_host, {"memory": self._ident, "ranges": to_body(grants)})
        if to_client is not None:
            spans = [(w.base, w.limit - w.base + 1, w.target) for w in self._epc.iatu.outbound if w]
            grants = within(self._of_host, undisputed(spans))
            doorbells = [[bit, vector] for bit in range(self._db_bits) if (vector := self._vector(bit)) >= 0]
            self._tell(
                "client",
                to_client,
                {"memory": self._host_ident, "ranges": to_body(grants), "doorbells": doorbells},
            )

    def forget_client(self) -> None:
        """The client is another one, which was told nothing."""
        self._told.pop("client", None)
        self.is_stale = True

    def _tell(self, who: str, say: Say, args: dict[str, Any]) -> None:
        known = self._told.get(who)
        if args != known and (args["ranges"] or known is not None):
            self._told[who] = args
            say(args)

    def _vector(self, bit: int) -> int:
        """The host's MSI vector for a doorbell bit; -1 when the bit cannot be rung by MSI now."""
        address, first_data, granted = self._host_msi
        if self._epc.get_msix():
            return -1
        try:
            composed = self._epc.irqs.msi.compose(slot_of_db_bit(bit) + 1)
        except KernelError:
            return -1
        if composed is None or composed[0] != address or not 0 <= composed[1] - first_data < granted:
            return -1
        return composed[1] - first_data
