"""ActStream: the messages of open calls, answered as calls of Act are, together with others."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator

from google.protobuf.message import DecodeError

from services.common.errors import InvalidInput
from services.common.server.awaited import TurnGatherer
from services.common.server.calls import BatchHandler, Call, unreadable
from services.common.server.streams import StreamMessage, Streams
from tutelage.v1 import policy_pb2 as pb

NAMED = ("policy", "version", "alias", "session")  # once for a whole stream


class Streaming:
    """A stream handler; belongs to one event loop.

    Args:
        act: what answers Act.
    """

    def __init__(self, act: BatchHandler) -> None:
        self._gatherer, self._streams = TurnGatherer(act), Streams()
        self.stop = self._streams.stop

    async def act_stream(self, contents: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        """One decision a message; see StreamHandler."""
        opening: Opening | None = None
        messages = aiter(contents)
        while (content := await self._streams.next(messages)) is not None:
            request = _read(content, call)
            if opening is None:
                opening = Opening(request)
            opening.check(request)
            yield await self._gatherer.add(StreamMessage(opening.prefix + content, call))


class Opening:
    """What a stream's first message says of all of them.

    prefix: serialized; a message that is put behind it says the same, for that is how serialized
        messages are merged.
    """

    def __init__(self, first: pb.ActRequest) -> None:
        self._named = {name: getattr(first, name) for name in NAMED}
        session = first.session or f"stream-{secrets.token_hex(16)}"
        whole = pb.ActRequest(**{**self._named, "session": session})
        self.prefix: bytes = whole.SerializeToString()

    def check(self, request: pb.ActRequest) -> None:
        """Refuse a message that is about something else.

        Raises:
            InvalidInput: naming what the stream is about.
        """
        for name, own in self._named.items():
            given = getattr(request, name)
            if given and given != own:
                said = repr(own) if own else f"no {name}"
                raise InvalidInput(
                    f"{name} is {given!r}, but the stream began with {said}: leave it out, or open "
                    "another stream"
                )


def _read(content: bytes, call: Call) -> pb.ActRequest:
    try:
        return pb.ActRequest.FromString(content)
    except DecodeError as error:
        raise unreadable(call.method, error) from None
