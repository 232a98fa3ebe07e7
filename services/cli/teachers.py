"""Scripted teachers: they judge pairs as a person at the page would, and never tire.

A teacher sees what a person sees, the two segments, and nothing of the environment's reward.
It errs, as people do: the closer the two, the more often (Bradley-Terry's own assumption).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from services.common.errors import InvalidInput
from tutelage import FeedbackClient
from tutelage.v1 import feedback_pb2 as pb

Observations = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Teacher:
    """What somebody likes, and how carefully they look.

    likes: the worth of a segment's observations (T, *shape); more is better.
    tie_within: segments whose worth differs by less are called equal.
    carelessness: how far apart, in worth, two segments are of which the worse is preferred
        1 time in 3.7 (probability of an error: 1 / (1 + e^(difference / carelessness))).
    """

    description: str
    likes: Callable[[Observations], float]
    tie_within: float
    carelessness: float

    def judge(
        self, left: Observations, right: Observations, generator: np.random.Generator
    ) -> pb.Choice.ValueType:
        """Left, right or tie."""
        difference = self.likes(left) - self.likes(right)
        if abs(difference) < self.tie_within:
            return pb.CHOICE_TIE
        error = 1 / (1 + math.exp(min(abs(difference) / self.carelessness, 700)))
        left_is_better = (difference > 0) != (generator.random() < error)
        return pb.CHOICE_LEFT if left_is_better else pb.CHOICE_RIGHT


def _cart_near(position: float) -> Callable[[Observations], float]:
    def likes(observations: Observations) -> float:
        return -float(np.abs(observations[:, 0] - position).mean())

    return likes


TEACHERS = {
    "cart-at-one": Teacher(
        "CartPole: the cart kept near x = +1, of which its reward knows nothing",
        _cart_near(1.0),
        tie_within=0.02,
        carelessness=0.02,
    ),
    "cart-centred": Teacher(
        "CartPole: the cart kept near the middle of the track",
        _cart_near(0.0),
        tie_within=0.02,
        carelessness=0.02,
    ),
}


def find_teacher(name: str) -> Teacher:
    """The teacher of this name.

    Raises:
        InvalidInput: naming those there are.
    """
    if name not in TEACHERS:
        raise InvalidInput(f"no teacher {name!r}; there are: {', '.join(TEACHERS)}")
    return TEACHERS[name]


def label_pairs(
    client: FeedbackClient,
    teacher: Teacher,
    policy: str,
    labeler: str,
    count: int,
    generator: np.random.Generator,
    on_label: Callable[[pb.Choice.ValueType], None] = lambda choice: None,
) -> None:
    """Label pairs with the calls that a person's browser causes: pair, both clips, judgement.

    Raises:
        tutelage.errors.TutelageError: when the feedback service says no.
    """
    for _ in range(count):
        pair = client.next_pair(labeler, policy)
        shown = time.monotonic()
        for segment in (pair.left, pair.right):
            client.get_clip(segment.segment_id)
        choice = teacher.judge(observations(pair.left), observations(pair.right), generator)
        elapsed_ms = round((time.monotonic() - shown) * 1000)
        client.submit_preference(pair.pair_id, labeler, choice, response_time_ms=elapsed_ms)
        on_label(choice)


def observations(segment: pb.Segment) -> Observations:
    """What was seen, (T, *shape)."""
    flat = np.frombuffer(segment.observations, "<f4")
    return flat.reshape(segment.length, *segment.observation_shape)
