"""What bench-replay compares are runs that end: one through Redis, one in this process."""

from pathlib import Path

from replay_training import Training

from services.common.embedded_redis import EmbeddedRedis


def test_both_ways_of_training_take_time(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "redis") as server:
        training = Training(server.url, tmp_path / "runs", steps=1200)
        spent = [training.through_redis(), training.in_memory()]
    assert all(one.wall_s > 0 and one.cpu_s > 0 for one in spent)
