"""Who talks to whom, and who maps what."""

from __future__ import annotations

from ntbnet import topology
from services import edma, endpoint, peer, rc_host

RECIPES = {
    recipe.service: recipe
    for recipe in (edma.RECIPE, endpoint.RECIPE, rc_host.RECIPE, *peer.RECIPES.values())
}


def test_memory_is_mapped_by_its_node_and_by_who_stores_far() -> None:
    far = {name for name, recipe in RECIPES.items() if recipe.stores_far}
    for node in ("rc", "ep"):
        own = {name for name, where in topology.NODE_OF.items() if where == node}

        assert topology.memory_users(node, "message") == own
        assert topology.memory_users(node, "local") == own | far
