"""Where a run's time goes: a clock that is switched from part to part as functions are called."""

from __future__ import annotations

import functools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from services.common.replay import MirrorReplay
from services.trainer import environments
from services.trainer.algorithms.actor_critic import ActorCriticLearner
from services.trainer.algorithms.dqn import DQNLearner
from services.trainer.algorithms.ppo import PPOLearner
from services.trainer.algorithms.sac import SACLearner
from services.trainer.collector import Collector
from services.trainer.heads import Categorical, Head
from services.trainer.runs.off_policy import OffPolicyRun
from services.trainer.runs.on_policy import OnPolicyRun
from services.trainer.runs.twin_critics import TwinCriticsRun

PARTS = ("environment", "policy", "replay", "update", "rest")
# What belongs to which part; `rest` is what is called by none of these.
FUNCTIONS: tuple[tuple[str, Any, tuple[str, ...]], ...] = (
    ("policy", OffPolicyRun, ("act",)),
    ("policy", TwinCriticsRun, ("act",)),
    ("policy", ActorCriticLearner, ("parameters", "log_probabilities")),
    ("policy", Categorical, ("draw",)),
    ("policy", Head, ("to_environment",)),
    ("replay", MirrorReplay, ("append_ahead", "sample", "sync")),
    ("replay", Collector, ("take",)),
    ("update", DQNLearner, ("update",)),
    ("update", SACLearner, ("update",)),
    ("update", PPOLearner, ("update",)),
    ("update", OnPolicyRun, ("_batch",)),  # advantages
)


class Clock:
    """Adds time up by part; what a part calls of another one counts for that one alone."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now, self._since = now, now()
        self._under_way = ["rest"]
        self.seconds = defaultdict[str, float](float)

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, whose time counts for the part."""

        @functools.wraps(function)
        def measured(*args: Any, **kwargs: Any) -> Any:
            self._switch()
            self._under_way.append(part)
            try:
                return function(*args, **kwargs)
            finally:
                self._switch()
                self._under_way.pop()

        return measured

    def shares(self, total_s: float) -> dict[str, float]:
        """Of so many seconds; `rest` is what no part took."""
        known = {part: self.seconds[part] / total_s for part in PARTS if part != "rest"}
        return {**known, "rest": 1 - sum(known.values())}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Time what is trained meanwhile."""
        make = environments.make

        def timed_make(*args: Any, **kwargs: Any) -> Any:
            envs = make(*args, **kwargs)
            envs.step = self.timed("environment", envs.step)  # type: ignore[method-assign]
            return envs

        with ExitStack() as stack:
            stack.enter_context(patch.object(environments, "make", timed_make))
            for part, owner, names in FUNCTIONS:
                for name in names:
                    timed = self.timed(part, getattr(owner, name))
                    stack.enter_context(patch.object(owner, name, timed))
            yield

    def _switch(self) -> None:
        now = self._now()
        self.seconds[self._under_way[-1]] += now - self._since
        self._since = now
