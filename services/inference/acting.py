"""Act and ActBatch: parses a batch of calls, groups it by version, and asks each version once.

This is the hot path: whatever is done here is done for every call, on one core.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol, Self, TypeVar

import numpy as np
from google.protobuf.message import DecodeError

from services.common.errors import InvalidInput, PreconditionFailed
from services.common.server.calls import Call, Reply, unreadable
from services.common.server.watching import note
from services.common.spec import Distribution, PolicySpec
from services.inference.batching import Asked, Encode, Instead, Question, TakeOver
from services.inference.choices import epsilon_of, is_drawn, temperature_of
from services.inference.core import PolicyCore
from services.inference.decision_ids import DecisionId
from services.inference.decoding import decode_masks
from services.inference.distribution import Masks, Seeds, row_seeds
from services.inference.fallback import Fallback, given_action
from services.inference.rounds import Round, replies_of
from services.inference.runner import Observations
from services.inference.split import STABLE, Split
from services.inference.templates import Template, Templates
from services.inference.tracking import Tracker
from services.inference.versions import ServedVersion
from tutelage.v1 import policy_pb2 as pb


class Addressed(Protocol):
    """A request for a version of a policy, which its own bytes make.

    All as in ActRequest.
    """

    @classmethod
    def FromString(cls, content: bytes) -> Self:  # noqa: N802
        """From the wire."""

    @property
    def policy(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def alias(self) -> str: ...
    @property
    def session(self) -> str: ...
    @property
    def recurrent_state(self) -> bytes: ...


A = TypeVar("A", bound=Addressed)
# A question for each call, or what is wrong with its request.
Ask = Callable[[ServedVersion, Sequence[Call], Sequence[A]], list[Question | Exception]]


class Acting:
    """Batch handlers, for any thread. Made inside an event loop, where versions are loaded.

    Args:
        fallback: answers calls of Act in place of errors, where it has something to say.
        draw_seed: gives a seed in [1, 2^64) for a drawn question that came without one.
        tracker: keeps decisions; None: they cannot be tracked.
        track_all: whether each decision of Act is tracked, asked for or not.
        logged: whether decisions are logged.
        noted: whether somebody looks at calls, and wants to know which version answers.
    """

    def __init__(
        self,
        core: PolicyCore,
        fallback: Fallback,
        draw_seed: Callable[[], int],
        tracker: Tracker | None = None,
        *,
        track_all: bool = False,
        logged: bool = False,
        noted: bool = False,
    ) -> None:
        self._core, self._fallback = core, fallback
        self._draw_seed = draw_seed
        self._tracker, self._track_all = tracker, track_all
        self._logged, self._noted = logged, noted
        self._loop = asyncio.get_running_loop()
        self._loading: set[asyncio.Task[None]] = set()
        self._templates = Templates()

    def act(self, calls: Sequence[Call]) -> list[Reply | None]:
        """One decision a call; see BatchHandler."""
        asked = Round(len(calls))
        contents = [call.content for call in calls]
        others = range(len(calls)) if self._track_all else self._ask_alike(calls, contents, asked)
        if others:
            self._ask(calls, contents, others, asked, pb.ActRequest, self._ones)
        replies = asked.replies()
        for i, reply in enumerate(replies):
            if isinstance(reply, Exception):
                replies[i] = self._fallback.instead(calls[i], reply)
        return replies

    def act_batch(self, calls: Sequence[Call]) -> list[Reply | None]:
        """Many decisions of one version a call; see BatchHandler."""
        return self.answer(calls, pb.ActBatchRequest, self._manys)

    def answer(self, calls: Sequence[Call], kind: type[A], ask: Ask[A]) -> list[Reply | None]:
        """Replies to calls whose requests are of one kind; see BatchHandler.

        Args:
            ask: makes of the requests for one version the questions it is asked.
        """
        asked = Round(len(calls))
        contents = [call.content for call in calls]
        self._ask(calls, contents, range(len(calls)), asked, kind, ask)
        return asked.replies()

    def _ask_alike(
        self, calls: Sequence[Call], contents: Sequence[bytes], asked: Round
    ) -> list[int]:
        """Ask what is like requests before; returns the places of the others."""
        others: list[int] = []
        alike: dict[Template, list[int]] = {}
        for i, content in enumerate(contents):
            template = self._templates.find(content)
            if template is None:
                others.append(i)
            else:
                alike.setdefault(template, []).append(i)
        for template, places in alike.items():
            request = template.request
            served = self._core.served(request.policy, request.version, request.alias)
            rows = None
            if isinstance(served, ServedVersion):
                raw = template.raw([contents[i] for i in places])
                rows = served.decoder.alike(request, raw, len(places))
            if rows is None or not isinstance(served, ServedVersion):
                others += places
                continue
            encode = served.encoder.one
            questions = [
                Question(calls[i], encode, rows[k : k + 1], 1) for k, i in enumerate(places)
            ]
            if self._logged or self._noted or self._fallback.has(served.manifest.policy):
                self._describe(questions, served, request)
            asked.add(served, places, questions)
        return others

    def _describe(
        self, questions: Sequence[Question], served: ServedVersion, request: pb.ActRequest
    ) -> None:
        """Say of questions alike what those who look on want to know, and what is done without
        an answer."""
        about = _asked_for(request) if self._logged else None
        instead = self._fallback.instead if self._fallback.has(served.manifest.policy) else None
        for question in questions:
            question.asked, question.instead = about, instead
            _note(question.call, served)

    def _ask(
        self,
        calls: Sequence[Call],
        contents: Sequence[bytes],
        places: Sequence[int],
        asked: Round,
        kind: type[A],
        ask: Ask[A],
    ) -> None:
        """Read the requests at these places, and ask what they ask."""
        found: dict[ServedVersion, tuple[list[int], list[Call], list[A]]] = {}
        for i in places:
            call = calls[i]
            try:
                request = kind.FromString(contents[i])
            except DecodeError as error:
                asked.refuse(i, unreadable(call.method, error))
                continue
            served = self._core.served(request.policy, request.version, request.alias)
            if isinstance(served, Split):
                served = served.choose(request.session, request.recurrent_state)
            if served is None:
                self._loop.call_soon_threadsafe(self._load, call, request, ask)
                continue
            if isinstance(request, pb.ActRequest):
                self._templates.learn(request, contents[i])
            group = found.get(served)
            if group is None:
                group = found[served] = ([], [], [])
            group[0].append(i)
            group[1].append(call)
            group[2].append(request)
            if self._noted:
                _note(call, served)
        for served, (own, callers, requests) in found.items():
            asked.add(served, own, ask(served, callers, requests))

    def _load(self, call: Call, request: A, ask: Ask[A]) -> None:
        task = self._loop.create_task(self._answer_when_loaded(call, request, ask))
        self._loading.add(task)  # the loop itself holds tasks only weakly
        task.add_done_callback(self._loading.discard)

    async def _answer_when_loaded(self, call: Call, request: A, ask: Ask[A]) -> None:
        try:
            served = await self._core.find(request.policy, request.version, request.alias)
            _note(call, served)
            (reply,) = replies_of(served, ask(served, [call], [request]))
        except Exception as error:  # noqa: BLE001 - whatever it is, the call is answered
            reply = error
        if isinstance(reply, Exception) and isinstance(request, pb.ActRequest):
            reply = self._fallback.instead(call, reply)
        if reply is not None:
            call.answer(reply)

    def _ones(
        self, served: ServedVersion, calls: Sequence[Call], requests: Sequence[pb.ActRequest]
    ) -> list[Question | Exception]:
        together = zip(calls, requests, served.decoder.ones(requests), strict=True)
        questions = [self._one(served, *each) for each in together]
        recurrence = served.recurrence
        return questions if recurrence is None else recurrence.ones(requests, questions)

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
            question = self.question(
                served, served.encoder.one, call, request, observation, request.action_mask
            )
            if request.include_value:
                _value(question, served)
            if request.track or self._track_all:
                decision = DecisionId.draw(served.manifest.policy)
                question.take_over = self._take_over(request, served, decision)
                if self._logged:
                    question.asked = _asked_for(request, (decision,))
            question.instead = self._instead(request, served, question.masks)
        except Exception as error:  # noqa: BLE001 - one call must not fail the others
            return error
        return question

    def _manys(
        self, served: ServedVersion, calls: Sequence[Call], requests: Sequence[pb.ActBatchRequest]
    ) -> list[Question | Exception]:
        return [self._many(served, *each) for each in zip(calls, requests, strict=True)]

    def _many(
        self, served: ServedVersion, call: Call, request: pb.ActBatchRequest
    ) -> Question | Exception:
        try:
            observations, flags = served.decoder.many(request), request.action_masks
            question = self.question(
                served, served.encoder.many, call, request, observations, flags
            )
            if request.include_values:
                _value(question, served)
            if served.recurrence is not None:
                question = served.recurrence.many(request, question)
        except Exception as error:  # noqa: BLE001 - one call must not fail the others
            return error
        return question

    def question(
        self,
        served: ServedVersion,
        encode: Encode,
        call: Call,
        request: pb.ActRequest | pb.ActBatchRequest,
        observations: Observations,
        flags: Sequence[bool],
    ) -> Question:
        """What a version is asked.

        Raises:
            InvalidInput: when what the request says of the choice makes no sense.
        """
        rows, spec = len(observations), served.spec
        return Question(
            call,
            encode,
            observations,
            rows,
            decode_masks(flags, rows, spec) if flags else None,
            temperature_of(request),
            self._seeds(request, rows, spec) if request.selection else None,
            epsilon_of(request, spec),
            request.include_probabilities,
            asked=_asked_for(request) if self._logged else None,
        )

    def _instead(
        self, request: pb.ActRequest, served: ServedVersion, mask: Masks | None
    ) -> Instead | None:
        if request.HasField("default_action"):
            given_action(request.default_action, served.spec, mask)
            return self._fallback.instead
        return self._fallback.instead if self._fallback.has(served.manifest.policy) else None

    def _take_over(
        self, request: pb.ActRequest, served: ServedVersion, decision: DecisionId
    ) -> TakeOver:
        if self._tracker is None:
            raise PreconditionFailed(
                "the decision cannot be tracked: this server has no Redis to keep it in; set "
                "TUTELAGE_REDIS_URL, or leave track out"
            )
        return self._tracker.tracked(request, served, decision)

    def _seeds(
        self, request: pb.ActRequest | pb.ActBatchRequest, rows: int, spec: PolicySpec
    ) -> Seeds | None:
        if not is_drawn(request, spec):
            return None
        first = request.seed if request.HasField("seed") else self._draw_seed()
        return np.array([first], dtype=np.uint64) if rows == 1 else row_seeds(first, rows)


def _note(call: Call, served: ServedVersion) -> None:
    note(call, policy=served.manifest.policy, version=served.manifest.version)


def _asked_for(
    request: pb.ActRequest | pb.ActBatchRequest, decisions: Sequence[DecisionId] = ()
) -> Asked:
    return Asked("" if request.version else request.alias or STABLE, request.session, decisions)


def _value(question: Question, served: ServedVersion) -> None:
    """Have a question answered with its value, by a critic where there is one.

    Raises:
        InvalidInput: when there is neither that nor action values.
    """
    spec = served.spec
    if spec.valued:
        question.critic = served.batcher.runner.values
    elif spec.distribution != Distribution.Q_VALUES:
        raise InvalidInput(
            f"the policy gives {spec.distribution.value} and no action values, and its model has "
            "no output `value`, so that it has no value; leave include_value out"
        )
    question.with_value = True
