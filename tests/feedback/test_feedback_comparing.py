"""Runs laid over one another: their groups, their curves, what sets them apart."""

from __future__ import annotations

import numpy as np
import pytest
from fake_services import (
    FakePolicies,
    FakeTrainer,
    RecordedRun,
    finished_runs,
    serving,
    training_run,
)

from services.feedback.app.comparing import differences, have_seeds_in_common, lines
from services.feedback.app.curves import (
    Summary,
    grid,
    on_grid,
    return_points,
    summarised,
)
from services.feedback.app.run_charts import Look, figure_chart, returns_chart
from services.feedback.app.run_history import HISTORIES_KEPT, Histories, RunHistory
from services.feedback.app.run_views import status_words
from tutelage import TrainingClient
from tutelage.v1 import training_pb2 as pb

NAN = np.nan


def a_run(seed: int, *, preset: str = "dqn", suffix: str = "", settings: str = "") -> pb.Run:
    return pb.Run(
        run_id=f"{preset}-{seed}{suffix}",
        preset=preset,
        seed=seed,
        config_yaml=f"seed: {seed}\nenvironment: {{id: CartPole-v1}}\n{settings}",
    )


def history_of(recorded: RecordedRun) -> RunHistory:
    history = RunHistory()
    history.add(recorded.events)
    return history


# --- curves --------------------------------------------------------------------------


def test_steps_are_spread_evenly_or_evenly_in_their_logarithm() -> None:
    even, log = grid(1590, log=False), grid(100_000, log=True)
    assert (even[0], even[1], even[-1]) == (0, 10, 1590)
    assert (log[0], log[-1]) == (100, 100_000)
    ratios = log[1:] / log[:-1]
    assert np.allclose(ratios, ratios.mean(), atol=0.01)


def test_a_curve_begins_with_its_first_point_and_ends_with_its_last() -> None:
    points, steps = [(10, 1.0), (20, 3.0)], np.array([0.0, 10, 15, 20, 30])
    assert np.array_equal(on_grid(points, steps, hold=False), [NAN, 1, 2, 3, NAN], True)
    assert np.array_equal(on_grid(points, steps, hold=True), [NAN, 1, 2, 3, 3], True)
    assert np.isnan(on_grid([], steps, hold=True)).all()


def test_returns_are_the_mean_of_the_last_episodes_by_steps() -> None:
    points = return_points(history_of(training_run()))
    assert len(points) == 400
    assert points[0][0] == 60


def test_seeds_are_summed_up_by_hand() -> None:
    curves = np.array([[0.0, 4, NAN], [1, 5, NAN], [3, 6, 8], [100, NAN, NAN]])
    mean = summarised(curves, Summary.MEAN)
    assert np.array_equal(mean.value, [26, 5, NAN], True)  # one of four is too few
    assert np.array_equal(mean.low, [0, 4, NAN], True)
    assert np.array_equal(mean.high, [100, 6, NAN], True)
    assert mean.runs.tolist() == [4, 3, 1]
    iqm = summarised(curves, Summary.IQM)
    assert np.array_equal(iqm.value, [2, 5, NAN], True)
    assert np.array_equal(iqm.low, [0.75, 4.5, NAN], True)
    assert np.array_equal(iqm.high, [27.25, 5.5, NAN], True)


# --- groups ----------------------------------------------------------------------------


def test_runs_that_differ_in_their_seed_alone_are_one_line() -> None:
    runs = [
        a_run(0),
        a_run(1, settings="policy: published-elsewhere"),
        a_run(0, preset="ppo"),
        a_run(2, settings="dqn: {n_step: 5}"),
    ]
    assert have_seeds_in_common(runs)
    assert not have_seeds_in_common(runs[1:])
    found = lines(runs, Summary.IQM)
    assert [line.name for line in found] == ["dqn · n_step – · 2 seeds", "ppo", "dqn · n_step 5"]
    assert [len(line.runs) for line in found] == [2, 1, 1]
    assert len({line.colour for line in found}) == 3
    each = lines(runs, Summary.EACH)
    assert [line.name for line in each] == [
        "dqn · n_step – · seed 0",
        "dqn · n_step – · seed 1",
        "ppo · seed 0",
        "dqn · n_step 5 · seed 2",
    ]


def test_runs_of_one_name_are_told_apart_by_their_id() -> None:
    runs = [a_run(0, suffix="-3f2a"), a_run(0, suffix="-9c1d")]
    assert [line.name for line in lines(runs, Summary.EACH)] == [
        "dqn · seed 0 · 3f2a",
        "dqn · seed 0 · 9c1d",
    ]


def test_settings_that_differ_are_shown_those_of_all_first() -> None:
    runs = [
        a_run(0, settings="dqn: {n_step: 1}\nnetwork: {hidden: [64, 64], noisy: false}"),
        a_run(0, settings="network: {hidden: [64], noisy: null}"),
    ]
    assert list(differences(runs).items()) == [
        ("network.hidden", ["[64, 64]", "[64]"]),
        ("network.noisy", ["false", "null"]),
        ("dqn.n_step", ["1", "–"]),
    ]
    assert differences(runs[:1]) == {}


@pytest.mark.parametrize(
    ("place", "words"), [(0, "queued"), (1, "queued, next in turn"), (3, "queued, 2 ahead")]
)
def test_a_place_in_the_queue_is_said(place: int, words: str) -> None:
    assert status_words(pb.Run(status=pb.RUN_STATUS_QUEUED, queue_place=place)) == words


# --- charts ----------------------------------------------------------------------------


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("summary", list(Summary))
def test_charts_are_drawn_of_many_of_one_and_of_nothing(summary: Summary, log: bool) -> None:
    look = Look(summary, log_steps=log, log_values=log)
    recorded = [*finished_runs(), training_run()]
    empty = RecordedRun(a_run(9))
    for some in (recorded, recorded[:1], [empty], [empty, *recorded]):
        runs = [one.run for one in some]
        histories = {one.run.run_id: history_of(one) for one in some}
        drawn = lines(runs, summary)
        assert returns_chart(drawn, histories, look).to_dict()["layer"]
        assert figure_chart("loss", drawn, histories, look).to_dict()["layer"]


def test_a_chart_has_a_colour_for_each_line_and_a_band_for_several_seeds() -> None:
    recorded = finished_runs()
    histories = {one.run.run_id: history_of(one) for one in recorded}
    drawn = lines([one.run for one in recorded], Summary.MEAN)
    chart = returns_chart(drawn, histories, Look(Summary.MEAN)).to_dict()
    band, line, *_ = chart["layer"]
    assert (band["mark"]["type"], line["mark"]["type"]) == ("area", "line")
    assert line["encoding"]["color"]["scale"]["domain"] == [
        "cartpole-ppo · learning_rate 0.001 · 2 seeds",
        "cartpole-ppo · learning_rate 0.003",
    ]
    tooltips = [layer["encoding"].get("tooltip", []) for layer in chart["layer"]]
    titles = {tip["title"] for tips in tooltips for tip in tips}
    assert {line.name for line in drawn} | {"Environment steps", "Mean return"} <= titles


# --- histories ---------------------------------------------------------------------------


def test_histories_are_read_on_and_kept_for_those_looked_at_last() -> None:
    recorded = training_run()
    with (
        serving(FakeTrainer(recorded), FakePolicies()) as address,
        TrainingClient(address) as client,
    ):
        kept = Histories()
        first = kept.updated(client, recorded.run.run_id)
        assert len(first.episodes) == 400
        recorded.add(episode_ended=pb.EpisodeEnded(episode=401, env_steps=99_999))
        again = kept.updated(client, recorded.run.run_id)
        assert (len(first.episodes), len(again.episodes)) == (400, 401)
    assert HISTORIES_KEPT > 24  # as many as are compared
