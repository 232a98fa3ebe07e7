"""The four journeys in order: a transition, a policy, an Act, a judgement."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from services.cli.demo.background import in_background
from services.cli.demo.episodes import Driven, drive
from services.cli.demo.platform import empty, running, settings_for
from services.cli.demo.traffic import Traffic, flowing
from services.cli.demo.verdict import Line, all_hold, print_verdict, write_json
from services.cli.launcher.platform_children import LauncherSettings
from services.cli.launcher.view import GOOD, NEUTRAL, View, view_for_stdout
from services.cli.launcher.words import duration
from services.cli.teachers import TEACHERS, label_pairs
from services.cli.watching import follow_run
from services.common.errors import Unavailable
from tutelage import AsyncClient, Client, FeedbackClient, TrainingClient
from tutelage.v1 import training_pb2 as pb


@dataclass(frozen=True)
class Round:
    """So many labels, and a fine-tuning run after them."""

    labels: int
    overrides: Mapping[str, str]


POLICY, ENVIRONMENT, TEACHER = "cartpole", "CartPole-v1", "cart-at-one"
EPISODES = 100
SOLVED, NEAR_BEFORE, NEAR_AFTER, MAX_LABELS = 475.0, 0.20, 0.70, 200
# The first labels say in which direction to go. The policies that go there, and too far for want
# of labels from there, show where to stop. Models before the last are judged on few pairs, which
# says little, so they have no gate; the last one has the preset's.
SHORTLY = {
    "tuning.total_env_steps": "98304",
    "reward.min_accuracy": "0",
    "reward.max_calibration_error": "1",
}
ROUNDS = (
    Round(labels=70, overrides=SHORTLY),
    Round(labels=65, overrides=SHORTLY),
    Round(labels=65, overrides={"recording.segments": "0"}),
)
ALL_LABELS = sum(r.labels for r in ROUNDS)
SWAPS = 10
BACKGROUND_PERIOD_S = 0.05
MAX_SECONDS = 300
SERVED_WITHIN_S = 15.0


@dataclass
class Findings:
    """What the journeys found."""

    before: Driven | None = None
    after: Driven | None = None
    labels: int = 0
    reward_model: pb.RewardModelFitted | None = None
    trained_version: int = 0
    tuned_version: int = 0
    traffic: Traffic = field(default_factory=Traffic)
    swap_traffic: Traffic = field(default_factory=Traffic)
    seconds: dict[str, float] = field(default_factory=dict)


def run_demo(folder: Path, seed: int, json_path: Path | None) -> bool:
    """Run all of it and print the table; whether every line holds.

    Raises:
        TutelageError: when a service does not come up or a run fails.
    """
    empty(folder)
    settings, started = settings_for(folder), time.monotonic()
    findings = Findings()
    with view_for_stdout() as view:
        asyncio.run(_run(settings, seed, findings, view))
    lines = verdict(findings, time.monotonic() - started)
    print_verdict(lines)
    if json_path is not None:
        write_json(lines, json_path)
    return all_hold(lines)


async def _run(settings: LauncherSettings, seed: int, findings: Findings, view: View) -> None:
    async with running(settings, view), AsyncClient(settings.inference_address) as client:
        journeys = _Journeys(settings, seed, findings, view, client)
        await journeys.train()
        async with flowing(client, POLICY, findings.traffic, period_s=BACKGROUND_PERIOD_S):
            findings.before = await journeys.drive("the trained policy")
            await journeys.record()
            for number, planned in enumerate(ROUNDS, start=1):
                await journeys.label(number, planned)
                await journeys.fine_tune(number, planned)
            await journeys.promote()
            findings.after = await journeys.drive("the fine-tuned policy")
            await journeys.swap()


@dataclass
class _Journeys:
    settings: LauncherSettings
    seed: int
    findings: Findings
    view: View
    client: AsyncClient

    async def train(self) -> None:
        """Journeys 1 and 2: transitions into the replay, a policy into the repository."""
        run = await self._run("train", "cartpole-dqn", {})
        self.findings.trained_version = max(run.published_versions)
        await self._until_served()

    async def drive(self, what: str) -> Driven:
        """Journey 3: every action of 100 episodes by Act."""
        started, done = time.monotonic(), 0

        def on_episode() -> None:
            nonlocal done
            done += 1
            progress = pb.RunProgress(
                phase=f"driving {what} through Act", done=done, total=EPISODES, unit="episodes"
            )
            progress.rate = done / (time.monotonic() - started)
            progress.remaining_s = (EPISODES - done) / progress.rate
            self.view.progress("act", progress)

        driven = await drive(
            self.client, ENVIRONMENT, POLICY, EPISODES, 10_000 + self.seed, on_episode
        )
        self.view.end_run("act")
        self.view.say(
            GOOD,
            f"{what}, version {driven.version}: mean return {driven.returns.mean():.1f}, "
            f"{driven.near:.0%} of steps with |x - 1| ≤ 0.3",
        )
        self._took(f"drive {what}", started)
        return driven

    async def record(self) -> None:
        """Journey 4: clips of what the trained policy does; fine-tuning adds those of its own."""
        await self._run("record", "cartpole-segments", {})

    async def label(self, number: int, planned: Round) -> None:
        """Journey 4: the teacher judges, through the calls a person's page makes."""
        started = time.monotonic()
        generator = np.random.default_rng((self.seed, number))

        def work() -> None:
            with FeedbackClient(self.settings.feedback_address) as feedback:
                label_pairs(
                    feedback,
                    TEACHERS[TEACHER],
                    POLICY,
                    TEACHER,
                    planned.labels,
                    generator,
                    self._labelled,
                )

        await in_background(work)
        self.view.end_run("labels")
        self.view.say(GOOD, f"the teacher has given {self.findings.labels} labels")
        self._took(f"label {number}", started)

    async def fine_tune(self, number: int, planned: Round) -> None:
        """Journey 4: fit the reward model, and teach the policy on its leash."""
        run = await self._run(f"teach {number}", "cartpole-rlhf", planned.overrides)
        self.findings.tuned_version = max(run.published_versions, default=0)
        with TrainingClient(self.settings.trainer_address) as client:
            for event in client.watch_run(run.run_id, follow=False):
                if event.HasField("reward_model_fitted"):
                    self.findings.reward_model = event.reward_model_fitted

    async def promote(self) -> None:
        """The policy that was tuned last becomes the stable one.

        Raises:
            Unavailable: when fine-tuning has published none.
        """
        version = self.findings.tuned_version
        if not version:
            raise Unavailable("fine-tuning has published no version to promote")

        def work() -> None:
            with Client(self.settings.inference_address) as client:
                client.promote(POLICY, version)

        await in_background(work)
        self.view.say(GOOD, f"promoted version {version} to stable")

    async def swap(self) -> None:
        """Roll back and forth under load."""
        started = time.monotonic()

        def work() -> None:
            with Client(self.settings.inference_address) as client:
                version = client.policy(POLICY).aliases["stable"]
                for _ in range(SWAPS // 2):
                    client.rollback(POLICY)
                    time.sleep(0.2)
                    client.promote(POLICY, version)
                    time.sleep(0.2)

        async with flowing(self.client, POLICY, self.findings.swap_traffic, period_s=0, callers=8):
            await in_background(work)
        self._took("swap", started)

    def _labelled(self, choice: int) -> None:
        self.findings.labels += 1
        progress = pb.RunProgress(
            phase="the teacher labels", done=self.findings.labels, total=ALL_LABELS, unit="labels"
        )
        self.view.progress("labels", progress)

    async def _run(self, name: str, preset: str, overrides: Mapping[str, str]) -> pb.Run:
        """Start a run and see it through.

        Raises:
            Unavailable: when it does not succeed.
        """
        started = time.monotonic()
        self.view.say(NEUTRAL, f"{name}: preset {preset}")

        def work() -> pb.Run:
            with TrainingClient(self.settings.trainer_address) as client:
                run = client.start_run(preset, overrides, seed=self.seed)
                return follow_run(client, run.run_id, self.view)

        run = await in_background(work)
        self._took(name, started)
        if run.status != pb.RUN_STATUS_SUCCEEDED:
            raise Unavailable(f"the demo cannot go on without {run.run_id}: {run.error}")
        return run

    async def _until_served(self) -> None:
        """Return once the inference service answers for the policy.

        Raises:
            Unavailable: when it does not soon after the policy was published.
        """

        def work() -> None:
            with Client(self.settings.inference_address) as client:
                deadline = time.monotonic() + SERVED_WITHIN_S
                while time.monotonic() < deadline:
                    newest = {p.name: p.versions[-1].version for p in client.policies()}
                    if newest.get(POLICY) == self.findings.trained_version:
                        return
                    time.sleep(0.1)
            raise Unavailable(f"no policy is served {SERVED_WITHIN_S:.0f} s after training")

        await in_background(work)

    def _took(self, what: str, started: float) -> None:
        self.findings.seconds[what] = time.monotonic() - started


def verdict(findings: Findings, seconds: float) -> list[Line]:
    """The table's lines."""
    before, after, fitted = findings.before, findings.after, findings.reward_model
    if before is None or after is None or fitted is None:
        raise ValueError("the journeys are not through")
    mean_before, mean_after = float(before.returns.mean()), float(after.returns.mean())
    traffic = [findings.traffic, findings.swap_traffic]
    calls = sum(t.calls for t in traffic) + len(before.latencies_s) + len(after.latencies_s)
    failed = sum(t.failures.total() for t in traffic)
    lines = [
        Line(
            f"(a) DQN's mean return, {EPISODES} episodes through Act",
            f"{mean_before:.1f}",
            f"≥ {SOLVED:.0f}",
            mean_before >= SOLVED,
        ),
        Line(
            "    latency of those calls, p50 / p99",
            f"{before.latency_ms(50):.2f} / {before.latency_ms(99):.2f} ms",
        ),
        Line(
            "(b) labels given by the teacher",
            str(findings.labels),
            f"≤ {MAX_LABELS}",
            findings.labels <= MAX_LABELS,
        ),
        Line(
            f"(c) reward model's accuracy on {fitted.held_out_preferences} held-out pairs",
            f"{fitted.accuracy:.0%} ({fitted.accuracy_low:.0%} to {fitted.accuracy_high:.0%})",
            "its gate",
            fitted.accepted,
        ),
        Line(
            "    its calibration error / log loss",
            f"{fitted.calibration_error:.3f} / {fitted.log_loss:.3f}",
            "its gate",
            fitted.accepted,
        ),
        Line(
            f"(d) fine-tuned policy's mean return, {EPISODES} episodes through Act",
            f"{mean_after:.1f}",
            f"≥ {SOLVED:.0f}",
            mean_after >= SOLVED,
        ),
        Line(
            "    steps with |x - 1| ≤ 0.3, before",
            f"{before.near:.0%}",
            f"< {NEAR_BEFORE:.0%}",
            before.near < NEAR_BEFORE,
        ),
        Line(
            "    steps with |x - 1| ≤ 0.3, after",
            f"{after.near:.0%}",
            f"≥ {NEAR_AFTER:.0%}",
            after.near >= NEAR_AFTER,
        ),
        Line(
            f"(e) failed calls of {calls:,}, over {sum(t.swaps for t in traffic)} swaps seen",
            str(failed),
            "0",
            failed == 0 and sum(t.swaps for t in traffic) > 0,
        ),
    ]
    times = ", ".join(f"{name} {s:.0f} s" for name, s in findings.seconds.items())
    return [
        *lines,
        Line("time in all", duration(seconds), f"< {duration(MAX_SECONDS)}", seconds < MAX_SECONDS),
        Line(times, ""),
    ]
