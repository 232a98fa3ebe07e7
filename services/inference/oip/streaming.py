"""ModelStreamInfer: ModelInfer for one message of a stream after another."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from google.protobuf.message import DecodeError

from services.common.server.calls import BatchHandler, Call, Metadata, Reply
from services.common.server.errors import to_status
from tutelage.oip.v2 import inference_pb2 as pb

# Appended to a serialized answer, which it is merged into: there is one to each request.
FINAL = pb.ModelInferResponse(
    parameters={"triton_final_response": pb.InferParameter(bool_param=True)}
).SerializeToString()


class Message:
    """A message of a stream, as the call that it would be by itself; see `Call`."""

    def __init__(self, content: bytes, call: Call) -> None:
        self.content = content
        self.arrived = time.monotonic()
        self._call = call
        self._loop = asyncio.get_running_loop()
        self._reply: asyncio.Future[Reply] = self._loop.create_future()

    @property
    def method(self) -> str:
        """As in `Call`."""
        return self._call.method

    @property
    def metadata(self) -> Metadata:
        """As in `Call`."""
        return self._call.metadata

    @property
    def deadline(self) -> float:
        """As in `Call`."""
        return self._call.deadline

    def cancelled(self) -> bool:
        """As in `Call`."""
        return self._call.cancelled()

    def answer(self, reply: Reply) -> None:
        """As in `Call`."""
        self._loop.call_soon_threadsafe(self._settle, reply)

    def _settle(self, reply: Reply) -> None:
        if not self._reply.done():
            self._reply.set_result(reply)

    async def reply(self, handle: BatchHandler) -> Reply:
        """What a handler answers, now or later."""
        (reply,) = handle([self])
        return await self._reply if reply is None else reply


class Streaming:
    """Answers streams by a handler of single calls."""

    def __init__(self, handle: BatchHandler) -> None:
        self._handle = handle

    async def infer(self, contents: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        """An answer to each message, in their order; what is wrong with one ends nothing."""
        async for content in contents:
            reply = await Message(content, call).reply(self._handle)
            if isinstance(reply, bytes):
                answer = pb.ModelStreamInferResponse()
                answer.infer_response.MergeFromString(reply + FINAL)
            else:
                answer = _refusal(content, reply, call.method)
            yield answer.SerializeToString()


def _refusal(content: bytes, error: Exception, method: str) -> pb.ModelStreamInferResponse:
    answer = pb.ModelStreamInferResponse(error_message=to_status(error, method).message)
    answer.infer_response.MergeFromString(FINAL)
    with contextlib.suppress(DecodeError):  # then it is what the message says
        answer.infer_response.id = pb.ModelInferRequest.FromString(content).id
    return answer
