"""What the calls of a batch ask, gathered by version, so that each version is asked once."""

from __future__ import annotations

from collections.abc import Sequence

from services.common.server.calls import Reply
from services.inference.batching import Question
from services.inference.versions import ServedVersion


class Round:
    """What the calls of a batch ask of which version, and their replies."""

    def __init__(self, count: int) -> None:
        self._replies: list[Reply | None] = [None] * count
        self._groups: dict[ServedVersion, tuple[list[int], list[Question | Exception]]] = {}

    def add(
        self,
        served: ServedVersion,
        places: Sequence[int],
        questions: Sequence[Question | Exception],
    ) -> None:
        """What a version is asked by the calls at these places."""
        own, together = self._groups.setdefault(served, ([], []))
        own += places
        together += questions

    def refuse(self, place: int, error: Exception) -> None:
        """A call that asks nothing."""
        self._replies[place] = error

    def replies(self) -> list[Reply | None]:
        """Ask each version once."""
        for served, (places, questions) in self._groups.items():
            for place, reply in zip(places, replies_of(served, questions), strict=True):
                self._replies[place] = reply
        return self._replies


def replies_of(
    served: ServedVersion, questions: Sequence[Question | Exception]
) -> list[Reply | None]:
    """A version's replies to questions; what is none of them stands in its place."""
    asked = served.batcher if served.recurrence is None else served.recurrence
    sound = [question for question in questions if isinstance(question, Question)]
    if len(sound) == len(questions):
        return asked.ask(sound)
    replies = iter(asked.ask(sound) if sound else ())
    return [next(replies) if isinstance(each, Question) else each for each in questions]
