"""Asks a version of a recurrent policy: brings each question its state, and takes what is left."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from services.common.errors import InvalidInput, TutelageError
from services.common.registry import PolicyManifest
from services.common.server.calls import Call, Metadata, Reply
from services.inference import metrics
from services.inference.batching import Batcher, Memory, Question
from services.inference.carried import CarriedStates
from services.inference.distribution import Decisions
from services.inference.encoding import Encoder
from services.inference.runner import States
from services.inference.session_states import SessionKey, Sessions, Turn
from tutelage.v1 import policy_pb2 as pb

Starts = npt.NDArray[np.bool_]


class Recurrence:
    """What a recurrent policy's version needs beside its batcher; for any thread.

    Of a session the states are kept here, question after question. Those that callers carry are
    unpacked, and packed again into the reply.
    """

    def __init__(
        self, manifest: PolicyManifest, batcher: Batcher, encoder: Encoder, sessions: Sessions
    ) -> None:
        self.digest, self.sessions = manifest.sha256, sessions
        self._policy, self._width = manifest.policy, manifest.spec.state_size
        self._batcher, self._encoder = batcher, encoder
        self._carried = CarriedStates(manifest)

    def ones(
        self, requests: Sequence[pb.ActRequest], questions: Sequence[Question | Exception]
    ) -> list[Question | Exception]:
        """Questions of Act with their memories, or what is wrong with the request."""
        together = zip(requests, questions, strict=True)
        return [q if isinstance(q, Exception) else self._one(r, q) for r, q in together]

    def many(self, request: pb.ActBatchRequest, question: Question) -> Question:
        """A question of ActBatch with its memory.

        Raises:
            InvalidInput: with what was expected.
        """
        if not (request.carry_state or request.recurrent_state):
            raise InvalidInput(
                "the policy is recurrent, and of the rows of a batch nothing is kept: set "
                "carry_state, and send each reply's recurrent_state with the next request"
            )
        rows, flags = question.rows, request.episode_starts
        if flags and len(flags) != rows:
            raise InvalidInput(f"episode_starts has {len(flags)} flags, expected one a row, {rows}")
        starts = np.array(flags, dtype=np.bool_) if flags else np.zeros(rows, dtype=np.bool_)
        question.memory = self._brought(request.recurrent_state, starts)
        question.encode = self._encode_many
        return question

    def ask(self, questions: Sequence[Question]) -> list[Reply | None]:
        """As `Batcher.ask`, each session's questions one after another."""
        replies: list[Reply | None] = [None] * len(questions)
        ready = []
        for i, question in enumerate(questions):
            try:
                if self._is_ready(question):
                    ready.append(i)
            except TutelageError as error:
                replies[i] = error
        following = []
        for i, reply in zip(ready, self.asked([questions[i] for i in ready]), strict=True):
            replies[i], call = reply, questions[i].call
            if reply is not None and isinstance(call, _Turn):
                following.append(call.over(reply))
        for turn in following:
            go_on(turn)
        return replies

    def asked(self, questions: Sequence[Question]) -> Sequence[Reply | None]:
        """As `Batcher.ask`, of questions whose turn it is."""
        try:
            return self._batcher.ask(questions) if questions else ()
        except Exception as error:  # noqa: BLE001 - whatever it is, the sessions go on
            return [error] * len(questions)

    def _one(self, request: pb.ActRequest, question: Question) -> Question | Exception:
        starts = np.array([request.episode_start])
        try:
            if request.carry_state or request.recurrent_state:
                question.memory = self._brought(request.recurrent_state, starts)
                question.encode = self._encode_one
                return question
        except InvalidInput as error:
            return error
        if not request.session:
            return _of_nobody()
        question.encode = self._encode_kept
        return self.kept(question, request.session, starts)

    def kept(self, question: Question, session: str, starts: Starts) -> Question:
        """A question of one row with a memory that is kept here."""
        memory, key = Memory(starts), SessionKey.of(self._policy, session)
        question.memory, question.call = memory, _Turn(key, question, memory, self)
        return question

    def _brought(self, content: bytes, starts: Starts) -> Memory:
        memory = Memory(starts)
        states = self._carried.unpack(content, len(starts)) if content else None
        self.recall(memory, states, "version" if content else "unknown")
        return memory

    def recall(self, memory: Memory, states: States | None, why: str) -> None:
        """Have a question begin with states, which are not there for a reason: None."""
        memory.was_reset = states is None and not memory.starts.all()
        if states is None:
            states = np.zeros((len(memory.starts), self._width), dtype=np.float32)
        memory.before = np.where(memory.starts[:, None], np.float32(0), states)
        if memory.was_reset or memory.starts.any():
            reason = why if memory.was_reset else "episode"
            metrics.SESSION_RESETS.labels(self._policy, reason).inc()

    def _is_ready(self, question: Question) -> bool:
        if question.memory is None:
            raise _of_nobody()
        return not isinstance(question.call, _Turn) or self.sessions.enter(question.call)

    def _encode_one(self, question: Question, decisions: Decisions, row: int) -> bytes:
        return self._encoder.one(question, decisions, row) + self._part(question, pb.ActResponse)

    def _encode_many(self, question: Question, decisions: Decisions, start: int) -> bytes:
        reply = self._encoder.many(question, decisions, start)
        return reply + self._part(question, pb.ActBatchResponse)

    def _encode_kept(self, question: Question, decisions: Decisions, row: int) -> bytes:
        reply, memory = self._encoder.one(question, decisions, row), question.memory
        return reply + _RESET if memory is not None and memory.was_reset else reply

    def _part(
        self, question: Question, kind: type[pb.ActResponse] | type[pb.ActBatchResponse]
    ) -> bytes:
        """What, appended to a serialized reply, gives it the state after."""
        memory = question.memory
        assert memory is not None
        assert memory.after is not None
        state = self._carried.pack(memory.after)
        part: bytes = kind(recurrent_state=state, state_reset=memory.was_reset).SerializeToString()
        return part


_RESET: bytes = pb.ActResponse(state_reset=True).SerializeToString()


class _Turn:
    """The call of a session's question, which goes on to the session's next once it is answered.

    It is never given up: what was sent has been seen, whether or not anyone waits for the answer.
    """

    def __init__(self, key: SessionKey, question: Question, memory: Memory, of: Recurrence) -> None:
        self.key, self.digest = key, of.digest
        self._question, self._memory, self._of = question, memory, of
        self._call = question.call

    @property
    def under(self) -> Call:
        """The call that it stands for."""
        return self._call

    @property
    def method(self) -> str:
        """As in `Call`."""
        return self._call.method

    @property
    def metadata(self) -> Metadata:
        """As in `Call`."""
        return self._call.metadata

    @property
    def peer(self) -> str:
        """As in `Call`."""
        return self._call.peer

    @property
    def content(self) -> bytes:
        """As in `Call`."""
        return self._call.content

    @property
    def deadline(self) -> float:
        """As in `Call`."""
        return self._call.deadline

    @property
    def arrived(self) -> float:
        """As in `Call`."""
        return self._call.arrived

    def cancelled(self) -> bool:
        """As in `Call`."""
        return False

    def answer(self, reply: Reply) -> None:
        """As in `Call`."""
        following = self.over(reply)
        self._call.answer(reply)
        go_on(following)

    def begin(self, state: States | None, why_not: str) -> None:
        """See `Turn`."""
        self._of.recall(self._memory, state, why_not)

    def go_on(self) -> Turn | None:
        """See `Turn`."""
        (reply,) = self._of.asked([self._question])
        if reply is None:
            return None
        if isinstance(reply, Exception) and self._question.instead is not None:
            reply = self._question.instead(self._call, reply)
        following = self.over(reply)
        self._call.answer(reply)
        return following

    def over(self, reply: Reply) -> Turn | None:
        """It has this reply; the session's next turn, if one waits."""
        after = self._memory.after if isinstance(reply, bytes) else None
        return self._of.sessions.leave(self, None if after is None else after.copy())


def go_on(turn: Turn | None) -> None:
    """Have a session's turns answered, as far as that is done at once."""
    while turn is not None:
        turn = turn.go_on()


def _of_nobody() -> InvalidInput:
    return InvalidInput(
        "the policy is recurrent: name a session, whose state is kept here, or set carry_state "
        "and send each reply's recurrent_state with the next request"
    )
