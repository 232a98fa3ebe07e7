"""Decisions that follow one another, over one call that stays open."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from typing import Any, Self, TypeAlias

import grpc
import numpy.typing as npt

from tutelage import _messages as messages
from tutelage._alarm import Alarm
from tutelage._calls import ACT_S
from tutelage._messages import Observation
from tutelage.decisions import Decision
from tutelage.errors import Cancelled, DeadlineExceeded, Unavailable, from_rpc_error
from tutelage.v1 import policy_pb2 as pb

CLOSE_S = 1.0
ATTEMPTS = 5
BACK_OFF_S = 0.1
LATE = "no answer within the time given"
# A service that is being stopped may cancel a call that it has not looked at.
AGAIN = (Unavailable, Cancelled)
ENDED = "the service ends the stream each time before it answers; is it being stopped?"
Requests: TypeAlias = "SimpleQueue[pb.ActRequest | None]"
Metadata = Sequence[tuple[str, str]]


class ActStream:
    """Decisions of one policy and session, one after another; see `Client.stream`. For one thread.

    A decision that fails ends the call beneath, and the next one opens another. So it is where
    the service is told to stop, or the connection is lost: then the observation is sent again,
    to another replica if there is one.
    """

    def __init__(
        self,
        method: Callable[..., Any],
        metadata: Metadata,
        opening: pb.ActRequest,
        carry_state: bool = False,
    ) -> None:
        self._method, self._metadata, self._opening = method, metadata, opening
        self._carry_state, self._state = carry_state, b""
        self._call: Any = None
        self._requests: Requests = SimpleQueue()
        self._alarm = Alarm(self._too_late)
        self._is_late = False

    def act(
        self,
        observation: Observation,
        *,
        mask: npt.ArrayLike | None = None,
        sample: bool = False,
        epsilon: float | None = None,
        seed: int | None = None,
        temperature: float | None = None,
        probabilities: bool = False,
        value: bool = False,
        track: bool = False,
        previous: Decision | str = "",
        episode_start: bool = False,
        timeout_s: float = ACT_S,
    ) -> Decision:
        """Which action to take; arguments as in `Client.act`."""
        request = _request(
            observation,
            mask,
            sample,
            epsilon,
            seed,
            temperature,
            probabilities,
            value,
            track,
            previous,
            episode_start,
            self._carry_state,
            self._state,
        )
        due = time.monotonic() + timeout_s
        self._is_late = False
        self._alarm.set(due)
        try:
            decision = messages.decode_decision(self._reply(request, due))
        finally:
            self._alarm.clear()
        self._state = decision.state
        return decision

    def close(self) -> None:
        """End the call."""
        if self._call is not None and self._call.is_active():
            self._requests.put(None)
            self._alarm.set(time.monotonic() + CLOSE_S)
            for _ in _quietly(self._call):
                pass
        self._alarm.close()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _reply(self, request: pb.ActRequest, due: float) -> pb.ActResponse:
        for attempt in range(ATTEMPTS):
            try:
                reply = self._ask(request)
            except grpc.RpcError as error:
                failed = from_rpc_error(error)
                if self._is_late:
                    raise DeadlineExceeded(LATE) from error
                if not isinstance(failed, AGAIN) or attempt == ATTEMPTS - 1:
                    raise failed from error
            else:
                if reply is not None:
                    return reply
            time.sleep(_pause(attempt, due))
        raise Unavailable(ENDED)

    def _ask(self, request: pb.ActRequest) -> pb.ActResponse | None:
        """The reply; None where the service has ended the call without."""
        if self._call is None or not self._call.is_active():
            request.MergeFrom(self._opening)
            self._requests = SimpleQueue()
            self._call = self._method(iter(self._requests.get, None), metadata=self._metadata)
            if self._is_late:  # which may have cancelled the call before
                self._call.cancel()
        self._requests.put(request)
        reply: pb.ActResponse | None = next(self._call, None)
        return reply

    def _too_late(self) -> None:
        self._is_late = True
        if self._call is not None:
            self._call.cancel()


class AsyncActStream:
    """As `ActStream`, for asyncio; for one task."""

    def __init__(
        self,
        method: Callable[..., Any],
        metadata: Metadata,
        opening: pb.ActRequest,
        carry_state: bool = False,
    ) -> None:
        self._method, self._metadata, self._opening = method, metadata, opening
        self._carry_state, self._state = carry_state, b""
        self._call: Any = None

    async def act(
        self,
        observation: Observation,
        *,
        mask: npt.ArrayLike | None = None,
        sample: bool = False,
        epsilon: float | None = None,
        seed: int | None = None,
        temperature: float | None = None,
        probabilities: bool = False,
        value: bool = False,
        track: bool = False,
        previous: Decision | str = "",
        episode_start: bool = False,
        timeout_s: float = ACT_S,
    ) -> Decision:
        """As `ActStream.act`."""
        request = _request(
            observation,
            mask,
            sample,
            epsilon,
            seed,
            temperature,
            probabilities,
            value,
            track,
            previous,
            episode_start,
            self._carry_state,
            self._state,
        )
        try:
            async with asyncio.timeout(timeout_s):
                due = time.monotonic() + timeout_s
                decision = messages.decode_decision(await self._reply(request, due))
        except TimeoutError:
            self._call.cancel()
            raise DeadlineExceeded(LATE) from None
        self._state = decision.state
        return decision

    async def close(self) -> None:
        """End the call."""
        if self._call is not None and not self._call.done():
            await self._call.done_writing()
            await asyncio.wait([asyncio.ensure_future(self._call.code())], timeout=CLOSE_S)
            self._call.cancel()

    async def __aenter__(self) -> Self:
        """Itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        await self.close()

    async def _reply(self, request: pb.ActRequest, due: float) -> pb.ActResponse:
        for attempt in range(ATTEMPTS):
            try:
                reply = await self._ask(request)
            except grpc.RpcError as error:
                failed = from_rpc_error(error)
                if not isinstance(failed, AGAIN) or attempt == ATTEMPTS - 1:
                    raise failed from error
            else:
                if isinstance(reply, pb.ActResponse):
                    return reply
            await asyncio.sleep(_pause(attempt, due))
        raise Unavailable(ENDED)

    async def _ask(self, request: pb.ActRequest) -> Any:
        """The reply; EOF where the service has ended the call without."""
        if self._call is None or self._call.done():
            request.MergeFrom(self._opening)
            self._call = self._method(metadata=self._metadata)
        try:
            await self._call.write(request)
        except asyncio.InvalidStateError:  # it ended in the meantime
            return grpc.aio.EOF
        return await self._call.read()


def opening(policy: str, version: int, alias: str, session: str) -> pb.ActRequest:
    """What the first message of a stream says of all of them.

    Raises:
        InvalidInput: when the version is no number.
    """
    session = session or uuid.uuid4().hex  # one for all calls that follow one another
    with messages.refusing_misfits():
        return pb.ActRequest(policy=policy, version=version, alias=alias, session=session)


def _request(
    observation: Observation,
    mask: npt.ArrayLike | None,
    sample: bool,
    epsilon: float | None,
    seed: int | None,
    temperature: float | None,
    probabilities: bool,
    value: bool,
    track: bool,
    previous: Decision | str,
    episode_start: bool,
    carry_state: bool,
    state: bytes,
) -> pb.ActRequest:
    return messages.act_request(
        observation,
        "",
        0,
        "",
        mask,
        sample,
        epsilon,
        seed,
        temperature,
        probabilities,
        value,
        track,
        previous,
        "",
        episode_start,
        carry_state,
        state,
    )


def _pause(attempt: int, due: float) -> float:
    pause: float = BACK_OFF_S * 2**attempt
    return max(0.0, min(pause, due - time.monotonic()))


def _quietly(call: Iterator[pb.ActResponse]) -> Iterator[pb.ActResponse]:
    try:
        yield from call
    except grpc.RpcError:
        return
