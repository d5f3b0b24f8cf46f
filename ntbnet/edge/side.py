"""One side of a bridge as the machine sees it: the node and its DRAM, made and removed together.

Kept apart from what every service imports: only a service that runs without a supervisor makes its side.
"""

from __future__ import annotations

from ntbnet.config import Config
from ntbnet.edge import shm
from ntbnet.edge.node import create_node, remove_node, spec_from
from ntbnet.edge.rundir import RunDir

NODE = "node"
MEMORY = "memory"
"""What a side consists of, in the words that people read."""


def make_side(config: Config, run: RunDir, node: str) -> list[str]:
    """Make what is missing of a side; what is there, whole and ours is kept.

    The memory comes last: it is named as made only by the call that made it.

    Returns:
        What was made, of ``NODE`` and ``MEMORY``.

    Raises:
        SetupError: a permission, a device or space is missing, or a name is taken by something
            that is not ours.
    """
    side = config.node.rc if node == "rc" else config.node.ep
    made = [NODE] if create_node(spec_from(config, run.name, node), run) else []
    if shm.make(run, node, side.dram_bytes):
        made.append(MEMORY)
    return made


def make_memories(config: Config, run: RunDir) -> None:
    """Make the memory of both nodes where it is missing: fabric ``local`` maps both. SetupError as above."""
    for node in (config.node.rc, config.node.ep):
        shm.make(run, "rc" if node is config.node.rc else "ep", node.dram_bytes)


def remove_side(config: Config, run: RunDir, node: str) -> list[str]:
    """Remove a side, and end what runs in its node; never touches what is not ours.  Idempotent.

    Returns:
        What was removed, of ``NODE`` and ``MEMORY``.

    Raises:
        SetupError: a permission is missing.
    """
    removed = [NODE] if remove_node(spec_from(config, run.name, node), run) else []
    if shm.remove(run, node):
        removed.append(MEMORY)
    return removed
