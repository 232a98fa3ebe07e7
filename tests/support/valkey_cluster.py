"""Valkey servers on the loopback address that are a cluster: three primaries, a replica each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import redis

from services.common.embedded_redis import EmbeddedRedis
from services.common.ports import LOOPBACK, free_port

PRIMARIES = 3
SLOTS = 16384
PATIENCE_S = 60.0
_POLL_S = 0.05


class Node(EmbeddedRedis):
    """One server of a cluster."""

    def __init__(self, folder: Path) -> None:
        self.bus_port = free_port()
        options = {
            "cluster-enabled": "yes",
            "cluster-port": str(self.bus_port),
            "cluster-node-timeout": "1000",
            "cluster-replica-validity-factor": "0",
            "repl-diskless-sync-delay": "0",
            "repl-ping-replica-period": "1",
        }
        super().__init__(folder, options=options)

    def ask(self, *command: str | int) -> object:
        """What it answers."""
        with redis.Redis(host=LOOPBACK, port=self.port) as client:
            return client.execute_command(*command)

    def has_role(self, role: bytes) -> bool:
        """Whether it is b"master" or b"slave", and of a cluster in which every slot is served."""
        answer = self.ask("ROLE")
        assert isinstance(answer, list)
        state = self.ask("CLUSTER", "INFO")
        ready = b"cluster_state:ok" in (state if isinstance(state, bytes) else str(state).encode())
        connected = role == b"master" or answer[3] == b"connected"
        return bool(answer[0] == role and ready and connected)


class Cluster:
    """The nodes: `primaries[i]` has the i-th third of the slots, `replicas[i]` follows it."""

    def __init__(self, primaries: list[Node], replicas: list[Node]) -> None:
        self.primaries, self.replicas = primaries, replicas

    @property
    def url(self) -> str:
        """Of all of them."""
        hosts = ",".join(f"{LOOPBACK}:{node.port}" for node in (*self.primaries, *self.replicas))
        return f"redis+cluster://{hosts}"


@contextmanager
def running_cluster(folder: Path) -> Iterator[Cluster]:
    """A cluster that serves every slot, its replicas in step."""
    with ExitStack() as stack:
        nodes = [stack.enter_context(Node(folder / f"node-{i}")) for i in range(2 * PRIMARIES)]
        cluster = Cluster(nodes[:PRIMARIES], nodes[PRIMARIES:])
        _introduce(nodes)
        for i, node in enumerate(cluster.primaries):
            first, end = i * SLOTS // PRIMARIES, (i + 1) * SLOTS // PRIMARIES
            node.ask("CLUSTER", "ADDSLOTSRANGE", first, end - 1)
        for primary, replica in zip(cluster.primaries, cluster.replicas, strict=True):
            identity = primary.ask("CLUSTER", "MYID")
            assert isinstance(identity, bytes)
            wait_until(lambda r=replica, i=identity: _knows(r, i))
            replica.ask("CLUSTER", "REPLICATE", identity.decode())
        for node in cluster.primaries:
            wait_until(lambda n=node: n.has_role(b"master"))
        for node in cluster.replicas:
            wait_until(lambda n=node: n.has_role(b"slave"))
        yield cluster


def wait_until(condition: Callable[[], bool]) -> None:
    """Raises AssertionError when it does not come true in a minute."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "the cluster did not get there in time"
        time.sleep(_POLL_S)


def _introduce(nodes: list[Node]) -> None:
    for i, node in enumerate(nodes):
        node.ask("CLUSTER", "SET-CONFIG-EPOCH", i + 1)
    for node in nodes[1:]:
        node.ask("CLUSTER", "MEET", LOOPBACK, nodes[0].port, nodes[0].bus_port)


def _knows(node: Node, identity: bytes) -> bool:
    answer = node.ask("CLUSTER", "NODES")
    text = answer if isinstance(answer, bytes) else str(answer).encode()
    return any(line.startswith(identity) and b"handshake" not in line for line in text.split(b"\n"))
