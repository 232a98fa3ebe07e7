"""One call with a deadline and typed errors, and a connection that can be closed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self, TypeVar

import grpc

from tutelage._channel import open_async_channel, open_channel
from tutelage.credentials import Credentials
from tutelage.errors import from_rpc_error

Request = TypeVar("Request")
Response = TypeVar("Response")


NOBODY = Credentials()
ACT_S = 2.0


class Connection:
    """A channel to one service or several alike; a context manager that closes it."""

    def __init__(self, address: str, credentials: Credentials = NOBODY) -> None:
        self._channel = open_channel(address, credentials)
        self._metadata = credentials.metadata

    def close(self) -> None:
        """Close the connection; calls under way are cancelled."""
        self._channel.close()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _call(
        self,
        method: grpc.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        timeout_s: float,
    ) -> Response:
        """The reply to a request.

        Raises:
            TutelageError: in place of gRPC's error.
        """
        try:
            return method(request, timeout=timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    def _stream(
        self,
        method: grpc.UnaryStreamMultiCallable[Request, Response],
        request: Request,
        timeout_s: float | None,
    ) -> Iterator[Response]:
        """The replies to a request, one by one; leaving the iterator cancels the call.

        Raises:
            TutelageError: in place of gRPC's error.
        """
        replies = method(request, timeout=timeout_s, metadata=self._metadata)
        try:
            yield from replies
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        finally:
            replies.cancel()


class AsyncConnection:
    """As `Connection`, for asyncio."""

    def __init__(self, address: str, credentials: Credentials = NOBODY) -> None:
        self._channel = open_async_channel(address, credentials)
        self._metadata = credentials.metadata

    async def close(self) -> None:
        """Close the connection; calls under way are cancelled."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        """Itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        await self.close()

    async def _call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        timeout_s: float,
    ) -> Response:
        """As `Connection._call`."""
        try:
            return await method(request, timeout=timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
