"""Act and ActBatch: parses a batch of calls, groups it by version, and asks each version once.

This is the hot path: whatever is done here is done for every call, on one core.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from google.protobuf.message import DecodeError

from services.common.errors import InvalidInput
from services.common.server.calls import Call, Reply, unreadable
from services.common.spec import Distribution, PolicySpec
from services.inference.batching import Encode, Question
from services.inference.core import PolicyCore
from services.inference.decoding import decode_masks
from services.inference.distribution import Seeds, row_seeds
from services.inference.runner import Observations
from services.inference.versions import ServedVersion
from tutelage.v1 import policy_pb2 as pb

A = TypeVar("A", pb.ActRequest, pb.ActBatchRequest)
# A question for each call, or what is wrong with its request.
Ask = Callable[[ServedVersion, Sequence[Call], Sequence[A]], list[Question | Exception]]
_SAMPLED: dict[int, bool] = {
    pb.ACTION_SELECTION_UNSPECIFIED: False,
    pb.ACTION_SELECTION_GREEDY: False,
    pb.ACTION_SELECTION_SAMPLE: True,
}


class Acting:
    """Batch handlers, for one thread. Made inside an event loop, where versions are loaded.

    Args:
        draw_seed: gives a seed in [1, 2^64) for a sampled question that came without one.
    """

    def __init__(self, core: PolicyCore, draw_seed: Callable[[], int]) -> None:
        self._core = core
        self._draw_seed = draw_seed
        self._loop = asyncio.get_running_loop()
        self._loading: set[asyncio.Task[None]] = set()

    def act(self, calls: Sequence[Call]) -> list[Reply | None]:
        """One decision a call; see BatchHandler."""
        return self._answer(calls, pb.ActRequest, self._ones)

    def act_batch(self, calls: Sequence[Call]) -> list[Reply | None]:
        """Many decisions of one version a call; see BatchHandler."""
        return self._answer(calls, pb.ActBatchRequest, self._manys)

    def _answer(self, calls: Sequence[Call], kind: type[A], ask: Ask[A]) -> list[Reply | None]:
        replies: list[Reply | None] = [None] * len(calls)
        found: dict[ServedVersion, tuple[list[int], list[Call], list[A]]] = {}
        for i, call in enumerate(calls):
            try:
                request = kind.FromString(call.content)
            except DecodeError as error:
                replies[i] = unreadable(call.method, error)
                continue
            served = self._core.served(request.policy, request.version, request.alias)
            if served is None:
                self._loop.call_soon_threadsafe(self._load, call, request, ask)
                continue
            group = found.get(served)
            if group is None:
                group = found[served] = ([], [], [])
            group[0].append(i)
            group[1].append(call)
            group[2].append(request)
        for served, (places, callers, requests) in found.items():
            answers = _asked(served, ask(served, callers, requests))
            for place, reply in zip(places, answers, strict=True):
                replies[place] = reply
        return replies

    def _load(self, call: Call, request: A, ask: Ask[A]) -> None:
        task = self._loop.create_task(self._answer_when_loaded(call, request, ask))
        self._loading.add(task)  # the loop itself holds tasks only weakly
        task.add_done_callback(self._loading.discard)

    async def _answer_when_loaded(self, call: Call, request: A, ask: Ask[A]) -> None:
        try:
            served = await self._core.find(request.policy, request.version, request.alias)
            (reply,) = _asked(served, ask(served, [call], [request]))
        except Exception as error:  # noqa: BLE001 - whatever it is, the call is answered
            reply = error
        if reply is not None:
            call.answer(reply)

    def _ones(
        self, served: ServedVersion, calls: Sequence[Call], requests: Sequence[pb.ActRequest]
    ) -> list[Question | Exception]:
        together = zip(calls, requests, served.decoder.ones(requests), strict=True)
        return [self._one(served, *each) for each in together]

    def _one(
        self,
        served: ServedVersion,
        call: Call,
        request: pb.ActRequest,
        observation: Observations | InvalidInput,
    ) -> Question | Exception:
        if isinstance(observation, InvalidInput):
            return observation
        try:
            return self._question(
                served, served.encoder.one, call, request, observation, request.action_mask
            )
        except Exception as error:  # noqa: BLE001 - one call must not fail the others
            return error

    def _manys(
        self, served: ServedVersion, calls: Sequence[Call], requests: Sequence[pb.ActBatchRequest]
    ) -> list[Question | Exception]:
        return [self._many(served, *each) for each in zip(calls, requests, strict=True)]

    def _many(
        self, served: ServedVersion, call: Call, request: pb.ActBatchRequest
    ) -> Question | Exception:
        try:
            observations, flags = served.decoder.many(request), request.action_masks
            return self._question(served, served.encoder.many, call, request, observations, flags)
        except Exception as error:  # noqa: BLE001 - one call must not fail the others
            return error

    def _question(
        self,
        served: ServedVersion,
        encode: Encode,
        call: Call,
        request: pb.ActRequest | pb.ActBatchRequest,
        observations: Observations,
        flags: Sequence[bool],
    ) -> Question:
        rows = len(observations)
        return Question(
            call,
            encode,
            observations,
            rows,
            decode_masks(flags, rows, served.spec) if flags else None,
            _temperature(request) if request.HasField("temperature") else 1.0,
            self._seeds(request, rows, served.spec) if request.selection else None,
            request.include_probabilities,
        )

    def _seeds(
        self, request: pb.ActRequest | pb.ActBatchRequest, rows: int, spec: PolicySpec
    ) -> Seeds | None:
        if not _is_sampled(request.selection, spec):
            return None
        first = request.seed if request.HasField("seed") else self._draw_seed()
        return np.array([first], dtype=np.uint64) if rows == 1 else row_seeds(first, rows)


def _asked(served: ServedVersion, questions: Sequence[Question | Exception]) -> list[Reply | None]:
    """A version's replies to the questions, and in its place what is none."""
    sound = [question for question in questions if isinstance(question, Question)]
    if len(sound) == len(questions):
        return served.batcher.ask(sound)
    replies = iter(served.batcher.ask(sound) if sound else ())
    return [next(replies) if isinstance(each, Question) else each for each in questions]


def _temperature(request: pb.ActRequest | pb.ActBatchRequest) -> float:
    temperature = request.temperature
    if not (temperature > 0 and math.isfinite(temperature)):
        raise InvalidInput(f"temperature is {temperature}, expected a positive finite number")
    return temperature


def _is_sampled(selection: int, spec: PolicySpec) -> bool:
    sampled = _SAMPLED.get(selection)
    if sampled is None:
        raise InvalidInput(f"selection is {selection}, expected 1 (greedy) or 2 (sample)")
    if sampled and spec.distribution == Distribution.DETERMINISTIC:
        raise InvalidInput(
            "the policy is deterministic, so that there is nothing to sample; "
            "expected selection 1 (greedy)"
        )
    return sampled
