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
from services.cli.launcher.view import GOOD, NEUTRAL, View, duration, view_for_stdout
from services.cli.teachers import TEACHERS, label_pairs
from services.cli.watching import follow_run
from services.common.errors import Unavailable
from tutelage import AsyncClient, Client, FeedbackClient, TrainingClient
from tutelage.v1 import training_pb2 as pb

POLICY, ENVIRONMENT, TEACHER = "cartpole", "CartPole-v1", "cart-at-one"
EPISODES = 100
SOLVED, NEAR_BEFORE, NEAR_AFTER, MAX_LABELS = 475.0, 0.20, 0.70, 200
ROUNDS = (80, 120)  # labels a round; the second round's segments show the first's policy too
SWAPS = 10
BACKGROUND_PERIOD_S = 0.05
MAX_SECONDS = 300


@dataclass
class Findings:
    """What the journeys found."""

    before: Driven | None = None
    after: Driven | None = None
    labels: int = 0
    reward_model: pb.RewardModelFitted | None = None
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
            for number, labels in enumerate(ROUNDS):
                await journeys.record(number)
                await journeys.label(labels)
                await journeys.fine_tune(number)
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
        await self._run("train", "cartpole-dqn", {})
        await self._until_served("stable")

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

    async def record(self, number: int) -> None:
        """Journey 4: clips of what the policies do; from the second round the tuned one too."""
        aliases = "[stable]" if number == 0 else "[stable, canary, canary]"
        await self._run(f"record {number + 1}", "cartpole-segments", {"aliases": aliases})

    async def label(self, count: int) -> None:
        """Journey 4: the teacher judges, through the calls a person's page makes."""
        started = time.monotonic()
        generator = np.random.default_rng(self.seed)

        def work() -> None:
            with FeedbackClient(self.settings.feedback_address) as feedback:
                label_pairs(
                    feedback, TEACHERS[TEACHER], POLICY, TEACHER, count, generator, self._labelled
                )

        await in_background(work)
        self.view.end_run("labels")
        self.view.say(GOOD, f"the teacher has given {self.findings.labels} labels")
        self._took("label", started)

    async def fine_tune(self, number: int) -> None:
        """Journey 4: fit the reward model, and teach the policy on its leash."""
        run = await self._run(f"teach {number + 1}", "cartpole-rlhf", {})
        with TrainingClient(self.settings.trainer_address) as client:
            for event in client.watch_run(run.run_id, follow=False):
                if event.HasField("reward_model_fitted"):
                    self.findings.reward_model = event.reward_model_fitted
        await self._until_served("canary")

    async def promote(self) -> None:
        """The tuned policy becomes the stable one."""

        def work() -> int:
            with Client(self.settings.inference_address) as client:
                version = client.policy(POLICY).aliases["canary"]
                client.promote(POLICY, version)
                return version

        version = await in_background(work)
        self.view.say(GOOD, f"promoted version {version} to stable")
        await self._until_served("stable")

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
            phase="the teacher labels", done=self.findings.labels, total=sum(ROUNDS), unit="labels"
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

    async def _until_served(self, alias: str) -> None:
        """Return once the inference service answers with the version the alias points at."""

        def work() -> None:
            with Client(self.settings.inference_address) as client:
                deadline = time.monotonic() + 15
                while time.monotonic() < deadline:
                    policies = {p.name: p for p in client.policies()}
                    policy = policies.get(POLICY)
                    if policy and policy.serving.get(alias) == policy.aliases.get(alias, -1):
                        return
                    time.sleep(0.1)
            raise Unavailable(f"{alias} is not served 15 s after it was published")

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
        Line("time in all", duration(seconds), "< 5:00", seconds < 300),
        Line(times, ""),
    ]
