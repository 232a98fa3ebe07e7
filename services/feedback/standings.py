"""Standings: how well segments have done in the comparisons so far."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable

from services.feedback.schema import Choice

_WORTH = {Choice.LEFT: 1.0, Choice.TIE: 0.5, Choice.RIGHT: 0.0}


def ratings(judged: Iterable[tuple[str, str, str]]) -> dict[str, float]:
    """Elo ratings (Elo 1978), in logits: a lead of d wins with probability 1 / (1 + e^-d).

    Each judgement moves both segments by how much it surprises, at most by 1.

    Args:
        judged: left and right segment id and the choice, in the order they were given; skips
            say nothing.

    Returns:
        by segment id; one that is not named has had no judgement, which is 0.
    """
    rating: defaultdict[str, float] = defaultdict(float)
    for left, right, choice in judged:
        if choice == Choice.SKIP:
            continue
        expected = 1 / (1 + math.exp(rating[right] - rating[left]))
        surprise = _WORTH[Choice(choice)] - expected
        rating[left] += surprise
        rating[right] -= surprise
    return dict(rating)
