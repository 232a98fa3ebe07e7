"""ModelStreamInfer: ModelInfer for one message of a stream after another."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from google.protobuf.message import DecodeError

from services.common.server.awaited import TurnGatherer
from services.common.server.calls import BatchHandler, Call
from services.common.server.errors import to_status
from services.common.server.streams import StreamMessage, Streams
from tutelage.oip.v2 import inference_pb2 as pb

# Appended to a serialized answer, which it is merged into: there is one to each request.
FINAL = pb.ModelInferResponse(
    parameters={"triton_final_response": pb.InferParameter(bool_param=True)}
).SerializeToString()


class InferStreaming:
    """A stream handler; belongs to one event loop.

    Args:
        infer: what answers ModelInfer.
    """

    def __init__(self, infer: BatchHandler) -> None:
        self._gatherer, self._streams = TurnGatherer(infer), Streams()
        self.stop = self._streams.stop

    async def infer(self, contents: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        """An answer to each message, in their order; what is wrong with one ends nothing."""
        messages = aiter(contents)
        while (content := await self._streams.next(messages)) is not None:
            yield (await self._answer(content, call)).SerializeToString()

    async def _answer(self, content: bytes, call: Call) -> pb.ModelStreamInferResponse:
        try:
            reply = await self._gatherer.add(StreamMessage(content, call))
        except Exception as error:  # noqa: BLE001 - whatever it is, the message is answered
            return _refusal(content, error, call.method)
        answer = pb.ModelStreamInferResponse()
        answer.infer_response.MergeFromString(reply + FINAL)
        return answer


def _refusal(content: bytes, error: Exception, method: str) -> pb.ModelStreamInferResponse:
    answer = pb.ModelStreamInferResponse(error_message=to_status(error, method).message)
    answer.infer_response.MergeFromString(FINAL)
    with contextlib.suppress(DecodeError):  # then it is what the message says
        answer.infer_response.id = pb.ModelInferRequest.FromString(content).id
    return answer
