"""A script whose answer is fetched later, so that nobody sits waiting while Redis works."""

from __future__ import annotations

from typing import Any

import redis

from services.common.replay.connection import Client
from services.common.replay.scripts import Argument, Script


class Flight:
    """Sends a script, on a connection of its own until it has landed.

    Raises:
        redis.RedisError: when it could not be sent.
    """

    def __init__(self, client: Client, script: Script, keys: list[str], *args: Argument) -> None:
        self._pool = server_of(client, keys[0]).connection_pool
        connection: Any = self._pool.get_connection()
        self._connection = connection
        try:
            self._connection.send_command("EVALSHA", script.sha, len(keys), *keys, *args)
        except BaseException:
            self._pool.release(self._connection)
            raise

    def land(self) -> Any:
        """The answer, once.

        Raises:
            redis.RedisError: when there is none, or one for which it must be sent again in the
                usual way, such as that the keys have moved.
        """
        try:
            return self._connection.read_response()
        finally:
            self._pool.release(self._connection)

    def drop(self) -> None:
        """Nobody wants the answer."""
        self._connection.disconnect()
        self._pool.release(self._connection)


def server_of(client: Client, key: str) -> redis.Redis:
    """The server that has a key, as far as is known."""
    if isinstance(client, redis.RedisCluster):
        cluster: Any = client
        found: redis.Redis = cluster.get_redis_connection(cluster.get_node_from_key(key))
        return found
    return client
