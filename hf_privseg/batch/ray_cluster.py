"""What a cluster of Ray has room for; and what ends an execution of Ray Data when a node dies, or comes.

Ray Data itself would go on, but it keeps the work of a dead actor for the one that is to replace it: where the nodes
that are left have no room for that one, it waits for ever.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.data._internal.execution.execution_callback import ExecutionCallback  # it has no public name

SPARE_CPUS = 1.0  # that actors leave to readers and writers, which would never run otherwise
_PAUSE = 1.0  # seconds from one look at the nodes to the next


@dataclass(frozen=True)
class Cluster:
    """The nodes of a cluster that can run something.

    Args:
        nodes: {address and id of a node that lives: its cores and GPUs, as CPU and GPU}.
    """

    nodes: Mapping[str, Mapping[str, float]]

    @classmethod
    def now(cls) -> "Cluster":
        """The cluster that this process is connected to."""
        alive = [node for node in ray.nodes() if node["Alive"]]
        resources = {f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})": node["Resources"] for node in alive}
        return cls({name: has for name, has in resources.items() if has.get("CPU") or has.get("GPU")})

    def total(self, resource: str) -> float:
        """How much of CPU or GPU it has."""
        return math.fsum(has.get(resource, 0.0) for has in self.nodes.values())

    def lost(self, now: "Cluster") -> list[str]:
        """The nodes that live no more."""
        return sorted(self.nodes.keys() - now.nodes.keys())

    def changes(self, now: "Cluster") -> str:
        """Which nodes it has lost and got, in words."""
        lost, got = self.lost(now), now.lost(self)
        return " and ".join([*(f"lost the node {name}" for name in lost), *(f"got the node {name}" for name in got)])


@dataclass(frozen=True)
class Actors:
    """The actors that a job wants.

    Args:
        share: {CPU or GPU: how much of it an actor takes}, of what it takes any.
        wanted: how many, at most.
    """

    share: Mapping[str, float]
    wanted: int | float = math.inf

    def fit(self, cluster: Cluster) -> int:
        """How many fit into the nodes of a cluster and leave SPARE_CPUS; one a node where they take nothing."""
        on_nodes = sum(
            min((has.get(name, 0.0) // amount for name, amount in self.share.items()), default=1.0)
            for has in cluster.nodes.values()
        )
        cpus = self.share.get("CPU")
        spared = (cluster.total("CPU") - SPARE_CPUS) // cpus if cpus else math.inf
        return int(max(min(on_nodes, spared, self.wanted), 0))


class ClusterChangedError(Exception):
    """The cluster is another than that which an execution was made for."""


class Watch(ExecutionCallback):
    """Ends an execution when a node is lost, or there is room for actors that are missing.

    Args:
        cluster: as it was when the execution was made.
        actors: that the job wants.
    """

    def __init__(self, cluster: Cluster, actors: Actors) -> None:
        self._cluster, self._actors, self._next = cluster, actors, 0.0

    def on_execution_step(self, executor: Any) -> None:
        """Called by Ray Data in each step of an execution, several times a second.

        Raises:
            ClusterChangedError: Ray Data stops the execution, and raises the same to whoever iterates over its rows.
        """
        if time.monotonic() < self._next:
            return
        now = Cluster.now()
        if self._cluster.lost(now) or self._actors.fit(now) > self._actors.fit(self._cluster):
            raise ClusterChangedError
        self._next = time.monotonic() + _PAUSE
