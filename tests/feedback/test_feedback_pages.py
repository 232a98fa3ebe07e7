"""The pages in a real Chromium: a real feedback service, a trainer and policies in memory."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from fake_services import (
    FakePolicies,
    FakeTrainer,
    finished_runs,
    serving,
    training_run,
    tuning_run,
)
from feedback_rig import FeedbackProcess, feedback_environment, start_feedback
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from services.common import clips
from services.common.ports import free_port
from tutelage.v1 import feedback_pb2 as pb
from tutelage.v1.training_pb2 import RUN_STATUS_SUCCEEDED

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
VIEWPORT = {"width": 1280, "height": 800}
PATIENCE_MS = 60_000
POINTED_MS = 300
START_S = 60
STEPS = 24
BOTH_PLAY = """() => {
  const videos = [];
  const walk = (node) => {
    if (node.tagName === "VIDEO") videos.push(node);
    for (const child of node.children ?? []) walk(child);
    if (node.shadowRoot) walk(node.shadowRoot);
  };
  walk(document.body);
  return videos.length === 2
    && videos.every((video) => video.readyState >= 3 && video.currentTime > 0.1 && video.muted)
    && Math.abs(videos[0].currentTime - videos[1].currentTime) < 0.2;
}"""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not CHROMIUM.exists(), reason=f"no Chromium at {CHROMIUM} to show the pages in"
    ),
]


@cache
def cartpole_segment(episode: int) -> pb.Segment:
    """A stretch of CartPole, balanced roughly, with its clip as the environment draws it."""
    environment = gymnasium.make("CartPole-v1", render_mode="rgb_array")
    generator = np.random.default_rng(episode)
    observation, _ = environment.reset(seed=episode)
    observations, actions, frames = [], [], []
    for _ in range(STEPS):
        observations.append(observation)
        frames.append(environment.render())
        balancing = observation[2] + 0.5 * observation[3] > generator.normal(scale=0.1)
        actions.append(int(balancing))
        observation, *_ = environment.step(actions[-1])
    environment.close()
    return pb.Segment(
        policy="cartpole",
        policy_version=1,
        episode_id=f"episode-{episode}",
        length=STEPS,
        observation_shape=[4],
        observations=np.array(observations, "<f4").tobytes(),
        actions=np.array(actions, "<i8").tobytes(),
        rewards=np.ones(STEPS, "<f4").tobytes(),
        clip=clips.encode(np.stack(frames), 25),
        frames_per_s=25,
    )


def upload_cartpole(feedback: FeedbackProcess, episodes: int = 12) -> None:
    segments = [cartpole_segment(episode) for episode in range(episodes)]
    feedback.stub.UploadSegments(pb.UploadSegmentsRequest(segments=segments))


@dataclass
class App:
    """`python -m services.feedback.app` as a real process, with the services behind it."""

    process: subprocess.Popen[str]
    url: str
    log: Path


def start_app(folder: Path, feedback_address: str, others: str) -> App:
    port = free_port()
    environment = feedback_environment(
        folder,
        int(feedback_address.rpartition(":")[2]),
        TUTELAGE_TRAINER_ADDRESS=others,
        TUTELAGE_INFERENCE_ADDRESS=others,
        TUTELAGE_APP_PORT=str(port),
    )
    log = folder / "app.log"
    with log.open("a") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.feedback.app"],
            env=environment,
            stdout=stream,
            stderr=stream,
            text=True,
        )
    app = App(process, f"http://127.0.0.1:{port}", log)
    wait_until_healthy(app)
    return app


def wait_until_healthy(app: App) -> None:
    deadline = time.monotonic() + START_S
    while True:
        assert app.process.poll() is None, app.log.read_text()
        try:
            with urllib.request.urlopen(f"{app.url}/_stcore/health", timeout=5):
                return
        except OSError:
            assert time.monotonic() < deadline, app.log.read_text()
            time.sleep(0.1)


def stop_app(app: App) -> None:
    if app.process.poll() is None:
        app.process.terminate()
        app.process.wait(20)


@dataclass
class Platform:
    feedback: FeedbackProcess
    trainer: FakeTrainer
    policies: FakePolicies
    app: App


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    folder = tmp_path_factory.mktemp("pages")
    trainer = FakeTrainer(tuning_run(), training_run(), *finished_runs())
    policies = FakePolicies()
    with ExitStack() as stack:
        feedback = start_feedback(folder)
        stack.callback(feedback.stop)
        upload_cartpole(feedback)
        app = start_app(folder, feedback.address, stack.enter_context(serving(trainer, policies)))
        stack.callback(stop_app, app)
        yield Platform(feedback, trainer, policies, app)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A visitor's window; fails the test when a page asks for anything from elsewhere."""
    context = browser.new_context(viewport=VIEWPORT)
    opened = context.new_page()
    opened.set_default_timeout(PATIENCE_MS)
    foreign: list[str] = []
    opened.on("request", lambda request: foreign.append(request.url))
    yield opened
    context.close()
    assert not [
        url for url in foreign if not re.match(r"(https?|wss?)://127\.0\.0\.1|data:|blob:", url)
    ]


def see(page: Page, text: str | re.Pattern[str]) -> None:
    expect(page.get_by_text(text).first).to_be_visible(timeout=PATIENCE_MS)


def point_at(page: Page, chart: Locator, tooltip: str) -> None:
    """Move over a chart until it tells what is there; it may be drawn anew meanwhile."""
    told = page.locator("#vg-tooltip-element", has_text=tooltip)
    for step in range(PATIENCE_MS // POINTED_MS):
        chart.hover(position={"x": 300 + step % 100, "y": 180})
        page.wait_for_timeout(POINTED_MS)
        if told.is_visible():
            return
    raise AssertionError(f"no tooltip with {tooltip!r}")


def fits_the_window(page: Page) -> bool:
    main = "document.querySelector('[data-testid=stMain]')"
    return bool(page.evaluate(f"{main}.scrollWidth <= {main}.clientWidth"))


def test_the_label_page_is_found_by_its_name_too(platform: Platform, page: Page) -> None:
    page.goto(f"{platform.app.url}/label?labeler=ann")
    see(page, "Which do you prefer?")
    expect(page).to_have_url(f"{platform.app.url}/?labeler=ann")
    expect(page.get_by_text("Page not found")).to_have_count(0)


def test_a_label_given_with_the_keyboard_is_saved(platform: Platform, page: Page) -> None:
    page.goto(f"{platform.app.url}/?labeler=ann")
    see(page, "Which do you prefer?")
    see(page, re.compile("of 200 labels"))
    page.wait_for_function(BOTH_PLAY, timeout=PATIENCE_MS)
    shown = platform.feedback.next_pair("cartpole", "ann")
    page.keyboard.press("ArrowLeft")
    see(page, "✓ Saved: left")
    (preference,) = platform.feedback.preferences("cartpole", labeler="ann").preferences
    assert preference.pair_id == shown.pair_id
    assert preference.choice == pb.CHOICE_LEFT
    assert 0 < preference.response_time_ms < PATIENCE_MS
    assert fits_the_window(page)

    page.wait_for_function(BOTH_PLAY, timeout=PATIENCE_MS)
    for key, choice in (("t", "tie"), ("s", "skip"), ("ArrowRight", "right"), ("ArrowDown", "tie")):
        page.keyboard.press(key)
        see(page, f"✓ Saved: {choice}")
    see(page, re.compile("5 by you"))
    page.keyboard.press("u")
    see(page, "Taken back: tie")
    progress = platform.feedback.progress("cartpole", "ann")
    assert (progress.left, progress.right, progress.ties, progress.skips) == (1, 1, 1, 1)


def test_a_reload_shows_the_same_pair_and_buttons_work(platform: Platform, page: Page) -> None:
    page.goto(f"{platform.app.url}/?labeler=bob")
    page.wait_for_function(BOTH_PLAY, timeout=PATIENCE_MS)
    shown = platform.feedback.next_pair("cartpole", "bob")
    page.reload()
    page.wait_for_function(BOTH_PLAY, timeout=PATIENCE_MS)
    page.get_by_role("button", name="Right").click()
    see(page, "✓ Saved: right")
    (preference,) = platform.feedback.preferences("cartpole", labeler="bob").preferences
    assert preference.pair_id == shown.pair_id
    page.get_by_role("button", name="Undo").click()
    see(page, "Taken back: right")
    assert not platform.feedback.preferences("cartpole", labeler="bob").preferences


def test_keys_typed_into_a_field_are_no_judgement(platform: Platform, page: Page) -> None:
    page.goto(f"{platform.app.url}/?labeler=cleo")
    page.wait_for_function(BOTH_PLAY, timeout=PATIENCE_MS)
    page.get_by_role("textbox", name="Your name").click()
    page.keyboard.type("st")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    see(page, re.compile("0 by you"))
    assert not platform.feedback.preferences("cartpole", labeler="cleo").preferences


def test_training_shows_curves_and_stops_a_run(platform: Platform, page: Page) -> None:
    page.goto(f"{platform.app.url}/training")
    see(page, "Line: mean of the last 100 training episodes")
    see(page, "training · 31,500 of 60,000 env steps · 1,840 steps/s · 16 s left")
    see(page, "312.4")
    see(page, "v1, v2")
    expect(page.get_by_test_id("stVegaLiteChart")).to_have_count(3, timeout=PATIENCE_MS)
    expect(page.locator("canvas, svg.marks").first).to_be_visible(timeout=PATIENCE_MS)
    assert fits_the_window(page)
    page.get_by_role("button", name="Stop").click()
    see(page, "Stopped")
    expect(page.get_by_role("button", name="Resume")).to_be_visible(timeout=PATIENCE_MS)
    assert platform.trainer.stopped == ["cartpole-dqn-20261122-101500-3f2a"]


def test_training_starts_a_run(platform: Platform, page: Page) -> None:
    page.goto(f"{platform.app.url}/training")
    page.get_by_role("button", name="Start a run").click()
    see(page, "What cartpole-dqn is for.")
    see(page, "CartPole-v1 · dqn · 60,000 steps at most")
    settings = page.get_by_role("textbox", name="Changed settings, one a line")
    settings.fill("colour = red")
    settings.blur()
    page.get_by_role("button", name="Start", exact=True).click()
    see(page, "unknown key 'colour'")
    settings.fill("dqn.n_step = 5\n")
    settings.blur()
    page.get_by_role("button", name="Start", exact=True).click()
    see(page, "Queued, next in turn")
    see(page, "Waiting for a free place.")
    assert platform.trainer.started[-1] == "cartpole-dqn"
    assert platform.trainer.overrides[-1] == {"dqn.n_step": "5"}


def test_training_compares_runs(platform: Platform, page: Page) -> None:
    runs = [recorded.run for recorded in finished_runs()] + [training_run().run]
    page.goto(f"{platform.app.url}/training?" + "&".join(f"run={run.run_id}" for run in runs))
    see(page, "Lines: interquartile mean over seeds")
    charts = page.get_by_test_id("stVegaLiteChart")
    expect(charts).to_have_count(3, timeout=PATIENCE_MS)
    see(page, re.compile("settings differ"))
    expect(page.get_by_test_id("stDataFrame")).to_have_count(2, timeout=PATIENCE_MS)
    page.get_by_role("radio", name="Each run").click()
    see(page, "Lines: mean of the last 100 training episodes.")
    point_at(page, charts.first, "Environment steps")
    page.get_by_text("Log steps").click()
    page.get_by_text("Log values").click()
    expect(page.get_by_test_id("stException")).to_have_count(0)
    expect(charts).to_have_count(3, timeout=PATIENCE_MS)
    assert fits_the_window(page)


def test_policy_acts_live_and_is_promoted(platform: Platform, page: Page) -> None:
    page.goto(f"{platform.app.url}/policy")
    see(page, re.compile(r"^Step \d\d+$"))
    see(page, "Version 2")
    expect(page.get_by_alt_text("The environment as the policy sees it act")).to_be_visible()
    assert platform.policies.calls > 10
    assert fits_the_window(page)
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("button", name="Play")).to_be_visible(timeout=PATIENCE_MS)
    page.get_by_role("button", name="Play").click()
    page.get_by_role("combobox", name=re.compile("Version")).click()
    page.get_by_role("option", name="canary (v3)").click()
    see(page, "Version 3")
    page.get_by_role("button", name="Promote v3").click()
    see(page, "stable is v3 now, was v2")
    assert platform.policies.aliases["stable"] == 3
    page.get_by_role("button", name="Roll back").click()
    see(page, "stable is v2 now, was v3")


def test_reward_model_shows_accuracy_and_calibration(platform: Platform, page: Page) -> None:
    page.goto(f"{platform.app.url}/reward-model")
    see(page, "Newest: version 2")
    see(page, "88%")
    see(page, "95% interval 77% to 94%")
    see(page, "Accepted")
    expect(page.get_by_test_id("stVegaLiteChart")).to_have_count(2, timeout=PATIENCE_MS)
    expect(page.get_by_role("button", name="Fine-tune the policy")).to_be_disabled()
    assert fits_the_window(page)


@pytest.fixture
def start_pages(
    tmp_path: Path, start: Callable[..., FeedbackProcess]
) -> Iterator[Callable[..., App]]:
    apps: list[App] = []

    def starter(feedback_address: str, others: str) -> App:
        apps.append(start_app(tmp_path, feedback_address, others))
        return apps[-1]

    yield starter
    for app in apps:
        stop_app(app)


def test_without_clips_a_recording_is_offered_and_sigterm_ends_it_quietly(
    start: Callable[..., FeedbackProcess], start_pages: Callable[..., App], page: Page
) -> None:
    feedback, trainer = start(), FakeTrainer()
    with serving(trainer, FakePolicies()) as address:
        app = start_pages(feedback.address, address)
        page.goto(app.url)
        see(page, "There is nothing to compare yet.")
        page.get_by_role("button", name="Record clips").click()
        see(page, re.compile("Recording clips"))
        assert trainer.started == ["cartpole-segments"]
        upload_cartpole(feedback)
        trainer.runs[0].run.status = RUN_STATUS_SUCCEEDED
        page.wait_for_function(BOTH_PLAY, timeout=PATIENCE_MS)
        app.process.terminate()
        assert app.process.wait(20) == 0
        assert "Traceback" not in app.log.read_text()


def test_an_answer_given_while_the_service_is_away_is_kept(
    start: Callable[..., FeedbackProcess],
    start_pages: Callable[..., App],
    page: Page,
) -> None:
    feedback = start()
    upload_cartpole(feedback)
    with serving(FakeTrainer(), FakePolicies()) as address:
        app = start_pages(feedback.address, address)
        page.goto(f"{app.url}/?labeler=ann")
        page.wait_for_function(BOTH_PLAY, timeout=PATIENCE_MS)
        feedback.process.send_signal(signal.SIGKILL)
        feedback.process.wait()
        page.keyboard.press("ArrowRight")
        see(page, re.compile("The feedback service at .* does not answer"))
        see(page, re.compile("Your last answer is not saved yet"))
        again = start(port=int(feedback.address.rpartition(":")[2]))
        see(page, "✓ Saved: right")
        (preference,) = again.preferences("cartpole", labeler="ann").preferences
        assert preference.choice == pb.CHOICE_RIGHT


def test_a_taken_port_is_one_line(platform: Platform, tmp_path: Path) -> None:
    port = platform.app.url.rpartition(":")[2]
    ended = subprocess.run(
        [sys.executable, "-m", "services.feedback.app"],
        env={**os.environ, "TUTELAGE_DATA_DIR": str(tmp_path), "TUTELAGE_APP_PORT": port},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert "the port is taken" in ended.stderr
    assert "Traceback" not in ended.stderr
