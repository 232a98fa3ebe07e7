"""How well the presets learn: several seeds a row, judged on fresh episodes.

    python tests/benchmarks/learn.py [--rows cartpole-dqn acrobot-dqn …] [--seeds 3]
    make learn ROWS=cartpole-dqn,acrobot-dqn SEEDS=3

Rows and what is asked of them are in learn_rows.yaml. Each seed is a run as the trainer makes
it (its own Valkey, its own empty policy repository), of which the policy under `stable` and the
final one play 100 greedy episodes each on seeds that no run has seen. Evaluations that the run
makes to choose what it publishes are counted, in steps and time.

Results add up in docs/learn, a JSON file a row, and what is there is not done again: call it
again after an interruption, or with more seeds. A file of another configuration is begun anew,
and so is one that was deleted. Rows may be trained in several terminals at once. The table and
the plots are drawn of all that is there.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from pathlib import Path

from learn_report import write_report
from learn_results import FOLDER, Results, commit, summarise
from learn_rows import Row, choose, load_rows, total_env_steps
from learn_run import RunFailed, machine, run_seed
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from tutelage.v1 import training_pb2 as pb

COLUMNS = (
    TextColumn("{task.description}"),
    BarColumn(),
    MofNCompleteColumn(),
    TimeElapsedColumn(),
    TimeRemainingColumn(),
    TextColumn("{task.fields[note]}"),
)


def learn(row: Row, seeds: int, folder: Path, bar: Progress) -> None:
    """Train the seeds that are missing, and add each to the results when it is done."""
    command = shlex.join(["python", *sys.argv])
    stamp = {"commit": commit(), "command": command, "machine": machine()}
    results = Results(row, stamp, folder)
    for seed in results.missing(seeds):
        task = bar.add_task(f"{row.name}, seed {seed}", total=_total(row), note="")

        def show(event: pb.RunEvent, task=task) -> None:  # type: ignore[no-untyped-def]
            if event.HasField("progress"):
                note = f"mean return {event.progress.mean_return:.1f}"
                bar.update(task, completed=event.progress.done, note=note)

        with tempfile.TemporaryDirectory() as name:
            try:
                outcome = run_seed(row, seed, Path(name), show)
            except RunFailed as error:
                bar.console.print(f"{row.name}, seed {seed}: the run failed: {error}")
                continue
            finally:
                bar.remove_task(task)
        results.add(outcome)
        own = [outcome]
        published, final = (summarise(own, which).iqm for which in ("published", "final"))
        bar.console.print(
            f"{row.name}, seed {seed}: published {published:.1f}, final {final:.1f} "
            f"after {outcome['env_steps']:,} steps in {outcome['wall_s']:.0f} s",
            highlight=False,
        )


def _total(row: Row) -> int:
    return total_env_steps(row.config(0))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", nargs="*", default=[], help="default: all")
    parser.add_argument("--seeds", type=int, help="default: as many as the row asks for")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the results")
    arguments = parser.parse_args()
    rows = load_rows()
    chosen = choose(rows, arguments.rows)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with Progress(*COLUMNS) as bar:
        for row in chosen:
            learn(row, arguments.seeds or row.seeds, arguments.folder, bar)
    print(write_report(list(rows.values()), arguments.folder))


if __name__ == "__main__":
    main()
