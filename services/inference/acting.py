"""Act and ActBatch: parses a batch of calls, groups it by version, and asks each version once."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from services.common.action_space import Discrete
from services.common.errors import InvalidInput, PreconditionFailed
from services.common.server.calls import Call, Reply, parse
from services.common.spec import Distribution, PolicySpec
from services.inference.batching import Batcher, Question, TakeOver
from services.inference.core import PolicyCore
from services.inference.decoding import decode_masks
from services.inference.distribution import Seeds, row_seeds
from services.inference.tracking import Tracker
from services.inference.versions import ServedVersion
from tutelage.v1 import policy_pb2 as pb

A = TypeVar("A", pb.ActRequest, pb.ActBatchRequest)
Ask = Callable[[Call, A, ServedVersion], Question]
_SELECTIONS = (
    pb.ACTION_SELECTION_UNSPECIFIED,
    pb.ACTION_SELECTION_GREEDY,
    pb.ACTION_SELECTION_SAMPLE,
    pb.ACTION_SELECTION_EPSILON_GREEDY,
)


class Acting:
    """Batch handlers, for one thread. Made inside an event loop, where versions are loaded.

    Args:
        draw_seed: gives a seed in [1, 2^64) for a drawn question that came without one.
        tracker: keeps decisions; None: they cannot be tracked.
        track_all: whether each decision of Act is tracked, asked for or not.
    """

    def __init__(
        self,
        core: PolicyCore,
        draw_seed: Callable[[], int],
        tracker: Tracker | None = None,
        *,
        track_all: bool = False,
    ) -> None:
        self._core = core
        self._draw_seed = draw_seed
        self._tracker, self._track_all = tracker, track_all
        self._loop = asyncio.get_running_loop()
        self._loading: set[asyncio.Task[None]] = set()

    def act(self, calls: Sequence[Call]) -> list[Reply | None]:
        """One decision a call; see BatchHandler."""
        return self._answer(calls, pb.ActRequest, self._one)

    def act_batch(self, calls: Sequence[Call]) -> list[Reply | None]:
        """Many decisions of one version a call; see BatchHandler."""
        return self._answer(calls, pb.ActBatchRequest, self._many)

    def _answer(self, calls: Sequence[Call], kind: type[A], ask: Ask[A]) -> list[Reply | None]:
        replies: list[Reply | None] = [None] * len(calls)
        asked: dict[Batcher, tuple[list[int], list[Question]]] = {}
        for i, call in enumerate(calls):
            try:
                request = parse(kind, call)
                served = self._core.served(
                    request.policy, request.version, request.alias, request.session
                )
                if served is None:
                    self._loop.call_soon_threadsafe(self._load, call, request, ask)
                    continue
                question = ask(call, request, served)
            except Exception as error:  # noqa: BLE001 - one call must not fail the others
                replies[i] = error
                continue
            places, questions = asked.setdefault(served.batcher, ([], []))
            places.append(i)
            questions.append(question)
        for batcher, (places, questions) in asked.items():
            for place, reply in zip(places, batcher.ask(questions), strict=True):
                replies[place] = reply
        return replies

    def _load(self, call: Call, request: A, ask: Ask[A]) -> None:
        task = self._loop.create_task(self._answer_when_loaded(call, request, ask))
        self._loading.add(task)  # the loop itself holds tasks only weakly
        task.add_done_callback(self._loading.discard)

    async def _answer_when_loaded(self, call: Call, request: A, ask: Ask[A]) -> None:
        try:
            served = await self._core.find(request.policy, request.version, request.alias)
            (reply,) = served.batcher.ask([ask(call, request, served)])
        except Exception as error:  # noqa: BLE001 - whatever it is, the call is answered
            reply = error
        if reply is not None:
            call.answer(reply)

    def _one(self, call: Call, request: pb.ActRequest, served: ServedVersion) -> Question:
        return Question(
            call,
            served.encoder.one,
            served.decoder.one(request),
            decode_masks(request.action_mask, 1, served.spec),
            _temperature(request),
            self._seeds(request, 1, served.spec),
            _epsilon(request, served.spec),
            request.include_probabilities,
            request.include_value and _has_value(served.spec),
            self._take_over(request, served),
        )

    def _many(self, call: Call, request: pb.ActBatchRequest, served: ServedVersion) -> Question:
        observations = served.decoder.many(request)
        return Question(
            call,
            served.encoder.many,
            observations,
            decode_masks(request.action_masks, len(observations), served.spec),
            _temperature(request),
            self._seeds(request, len(observations), served.spec),
            _epsilon(request, served.spec),
            request.include_probabilities,
            request.include_values and _has_value(served.spec),
        )

    def _take_over(self, request: pb.ActRequest, served: ServedVersion) -> TakeOver | None:
        if not (request.track or self._track_all):
            return None
        if self._tracker is None:
            raise PreconditionFailed(
                "the decision cannot be tracked: this server has no Redis to keep it in; set "
                "TUTELAGE_REDIS_URL, or leave track out"
            )
        return self._tracker.tracked(request, served)

    def _seeds(
        self, request: pb.ActRequest | pb.ActBatchRequest, rows: int, spec: PolicySpec
    ) -> Seeds | None:
        if not _is_drawn(request.selection, spec):
            return None
        first = request.seed if request.HasField("seed") else self._draw_seed()
        return np.array([first], dtype=np.uint64) if rows == 1 else row_seeds(first, rows)


def _temperature(request: pb.ActRequest | pb.ActBatchRequest) -> float:
    if not request.HasField("temperature"):
        return 1.0
    temperature = request.temperature
    if not (temperature > 0 and math.isfinite(temperature)):
        raise InvalidInput(f"temperature is {temperature}, expected a positive finite number")
    return temperature


def _is_drawn(selection: int, spec: PolicySpec) -> bool:
    if selection not in _SELECTIONS:
        raise InvalidInput(
            f"selection is {selection}, expected 1 (greedy), 2 (sample) or 3 (ε-greedy)"
        )
    if selection == pb.ACTION_SELECTION_SAMPLE and spec.distribution == Distribution.DETERMINISTIC:
        raise InvalidInput(
            "the policy is deterministic, so that there is nothing to sample; "
            "expected selection 1 (greedy)"
        )
    return selection >= pb.ACTION_SELECTION_SAMPLE


def _epsilon(request: pb.ActRequest | pb.ActBatchRequest, spec: PolicySpec) -> float | None:
    given = request.HasField("epsilon")
    if request.selection != pb.ACTION_SELECTION_EPSILON_GREEDY:
        if given:
            raise InvalidInput("epsilon is for selection 3 (ε-greedy); say that, or leave it out")
        return None
    if not isinstance(spec.action, Discrete):
        raise InvalidInput(
            f"an ε-greedy choice is one of Discrete actions, but the policy acts in {spec.action}"
        )
    if not (given and 0 <= request.epsilon <= 1):
        said = f"is {request.epsilon}" if given else "is missing"
        raise InvalidInput(f"epsilon {said}, expected a probability from 0 to 1")
    if request.HasField("temperature"):
        raise InvalidInput("an ε-greedy choice has no temperature; leave it out")
    return request.epsilon


def _has_value(spec: PolicySpec) -> bool:
    if spec.distribution != Distribution.Q_VALUES:
        raise InvalidInput(
            f"the policy gives {spec.distribution.value} and no action values, so that it has no "
            "value; leave include_value out"
        )
    return True
