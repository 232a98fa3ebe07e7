"""`tutelage label` against a real feedback service."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result
from feedback_rig import FeedbackProcess, start_feedback

from services.cli import main
from services.cli.teachers import TEACHERS
from services.common.ports import free_port


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeedbackProcess]:
    found = start_feedback(tmp_path_factory.mktemp("feedback"))
    yield found
    found.stop()


@pytest.fixture
def feedback(service: FeedbackProcess, monkeypatch: pytest.MonkeyPatch) -> FeedbackProcess:
    monkeypatch.setenv("TUTELAGE_FEEDBACK_ADDRESS", service.address)
    return service


def call(*arguments: str) -> Result:
    result = CliRunner().invoke(main, ["label", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def error(*arguments: str) -> str:
    result = call(*arguments)
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_teachers_are_listed_with_what_they_like() -> None:
    result = call("--list")
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert [line.split()[0] for line in lines] == list(TEACHERS)
    assert "x = +1" in lines[0]


def test_labels_are_given_kept_and_counted(feedback: FeedbackProcess) -> None:
    feedback.upload("counted", 12)
    result = call("--teacher", "cart-at-one", "--policy", "counted", "--count", "9")
    assert result.exit_code == 0
    progress = feedback.progress("counted", "teacher-cart-at-one")
    assert progress.by_labeler == progress.left + progress.right + progress.ties == 9
    assert result.output.splitlines()[-1] == (
        f"9 labels saved; counted now has {progress.left + progress.right} with a side, "
        f"{progress.ties} ties and 0 skips, {progress.held_out} of them held out"
    )
    given = feedback.preferences("counted").preferences
    assert {p.labeler for p in given} == {"teacher-cart-at-one"}
    assert all(p.response_time_ms >= 0 for p in given)


def test_labels_are_kept_under_the_name_given(feedback: FeedbackProcess) -> None:
    feedback.upload("named", 8)
    arguments = ("--teacher", "cart-centred", "--policy", "named", "--count", "2")
    assert call(*arguments, "--labeler", "ann").exit_code == 0
    assert call(*arguments, "--labeler", "bob", "--seed", "3").exit_code == 0
    given = feedback.preferences("named").preferences
    assert [p.labeler for p in given] == ["ann", "ann", "bob", "bob"]


def test_when_the_pairs_run_out_the_labels_given_stay(feedback: FeedbackProcess) -> None:
    feedback.upload("scarce", 3)
    message = error("--teacher", "cart-at-one", "--policy", "scarce", "--count", "50")
    assert "record more segments" in message
    assert feedback.progress("scarce", "teacher-cart-at-one").by_labeler >= 1


def test_a_task_without_segments_is_named(feedback: FeedbackProcess) -> None:
    assert "nothing" in error("--teacher", "cart-at-one", "--policy", "nothing")


def test_an_unknown_teacher_is_told_who_there_is(feedback: FeedbackProcess) -> None:
    expected = f"Error: no teacher 'miss-honey'; there are: {', '.join(TEACHERS)}\n"
    assert error("--teacher", "miss-honey") == expected


def test_a_service_that_is_away_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("TUTELAGE_FEEDBACK_ADDRESS", address)
    assert error("--teacher", "cart-at-one") == (
        f"Error: the feedback service at {address} does not answer; is `make run` going?\n"
    )
