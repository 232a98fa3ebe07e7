"""How fast our training is beside Stable-Baselines3's, and where its time goes.

    python tests/benchmarks/bench_train.py [--tasks dqn-cartpole …] [--parts speed threshold …]
                                           [--rounds 5] [--seeds 3] [--steps 2000]

speed      environment steps a second at settings that are the same for both (network, batch,
           environments, updates a step; see train_tasks.py): without evaluations, each in a
           process that has trained a little before. Ours and theirs take turns within a round,
           and medians over the rounds are given, so that what else the machine does weighs on
           both alike.
threshold  seconds until the mean return of the last 20 training episodes reaches a threshold:
           our presets (CartPole's with less exploration), with the evaluations and exports that
           a run makes, beside Stable-Baselines3 at RL Zoo's tuned settings without any. Imports
           are not counted; making environments and networks is in ours, not in theirs. A seed
           that never gets there counts as infinitely long; where theirs does not in the median,
           the ratio is of the time that theirs ended after, and more than it says.
profile    where the time of ours goes, at the settings of `speed`, and what the matrix products
           of its updates alone would have taken.

One thread a process. Stable-Baselines3 gets a virtual environment under $TUTELAGE_PEERS (default
~/.cache/tutelage-peers) on first use. Writes build/bench/train.json after each task.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from pathlib import Path
from typing import Any

from learn_results import commit
from learn_run import machine
from train_clock import PARTS
from train_peer import ask, train_sb3
from train_products import bare_us
from train_tasks import TASKS, Alike, Task

REPORT = Path("build/bench/train.json")
OURS = Path(__file__).with_name("train_ours.py")
# What is asked: steps a second, and seconds to the threshold, times theirs.
TARGETS = {
    "steps_per_s_ratio": {"dqn-cartpole": 2.0, "ppo-cartpole": 3.0, "sac-pendulum": 1.25},
    "seconds_to_threshold_ratio": {
        "dqn-cartpole": 3.0,
        "dqn-acrobot": 3.0,
        "dqn-lunarlander": 3.0,
        "sac-pendulum": 3.0,
    },
}


def train_ours(task: Task, **request: Any) -> dict[str, Any]:
    """One run of ours in a process of its own."""
    defaults = {"overrides": task.overrides, "warm_up_steps": 0, "threshold": None, "steps": 0}
    more = {"preset": task.preset, "judged": True, "profile": False}
    return ask([sys.executable, str(OURS)], {**defaults, **more, **request})


def measure_speed(task: Task, alike: Alike, rounds: int, steps: int) -> dict[str, Any]:
    """Steps a second of both at the same settings, and how many times theirs ours are."""
    ours, theirs = [], []
    for number in range(rounds):
        common = {"seed": number, "steps": steps, "warm_up_steps": alike.warm_up_steps}
        turns = [
            lambda c=common: ours.append(
                _rate(train_ours(task, overrides=alike.overrides, judged=False, **c))
            ),
            lambda c=common: theirs.append(
                _rate(train_sb3(task.theirs.request(task.environment, threshold=None, **c)))
            ),
        ]
        for turn in turns if number % 2 == 0 else reversed(turns):
            turn()
        print(f"  round {number + 1}: ours {ours[-1]:,.0f}, sb3 {theirs[-1]:,.0f} steps/s")
    ratios = [mine / its for mine, its in zip(ours, theirs, strict=True)]
    return {
        "ours": {"steps_per_s": statistics.median(ours), "steps_per_s_rounds": ours},
        "sb3": {"steps_per_s": statistics.median(theirs), "steps_per_s_rounds": theirs},
        "steps_per_s_ratio": statistics.median(ratios),
    }


def _rate(answer: dict[str, Any]) -> float:
    return float(answer["env_steps"] / answer["wall_s"])


def measure_threshold(task: Task, seeds: int) -> dict[str, Any]:
    """Seconds of both until they have learnt, each at its own settings."""
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "sb3": []}
    for seed in range(seeds):
        common = {"seed": seed, "threshold": task.threshold, "warm_up_steps": 0}
        request = task.theirs.request(task.environment, steps=task.steps, **common)
        found["ours"].append(train_ours(task, **common))
        found["sb3"].append(train_sb3(request))
        print(f"  seed {seed}: " + ", ".join(f"{n} {_reached(a[-1])}" for n, a in found.items()))
    summed = {name: _summed(answers) for name, answers in found.items()}
    median = summed["ours"]["median"]
    its = summed["sb3"]["median"] or statistics.median(a["wall_s"] for a in found["sb3"])
    return {
        **{name: {"seconds_to_threshold": value} for name, value in summed.items()},
        "threshold": task.threshold,
        "seconds_to_threshold_ratio": its / median if median else None,
    }


def _summed(answers: list[dict[str, Any]]) -> dict[str, Any]:
    """The median, None where that is never, and each seed."""
    median = statistics.median(a["reached_s"] or math.inf for a in answers)
    return {
        "median": median if math.isfinite(median) else None,
        "seeds": [a["reached_s"] for a in answers],
        "ended_after_s": [a["wall_s"] for a in answers],
        "env_steps": [a["env_steps"] for a in answers],
    }


def _reached(answer: dict[str, Any]) -> str:
    if answer["reached_s"] is None:
        return f"never in {answer['wall_s']:.1f} s ({answer['env_steps']:,} steps)"
    return f"{answer['reached_s']:.1f} s ({answer['env_steps']:,} steps)"


def measure_profile(task: Task, alike: Alike, steps: int) -> dict[str, Any]:
    """Shares of our time by part, and the share that the bare matrix products would take."""
    answer = train_ours(
        task,
        overrides=alike.overrides,
        judged=False,
        profile=True,
        seed=0,
        steps=steps,
        warm_up_steps=alike.warm_up_steps,
    )
    products_us = bare_us(alike.products)
    updates = answer["env_steps"] / alike.env_steps_per_update
    share = 1e-6 * products_us * updates / answer["wall_s"]
    return {
        "ours": {"shares": answer["shares"]},
        "matrix_products": {"us_an_update": products_us, "share_of_ours": share},
    }


def merge(into: dict[str, Any], more: dict[str, Any]) -> None:
    """Add to a tree of dictionaries."""
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = value


def measure(task: Task, options: argparse.Namespace) -> dict[str, Any]:
    """All parts asked for, of those that the task has."""
    figures: dict[str, Any] = {}
    if task.alike is not None:
        steps = options.steps or task.alike.steps
        if "speed" in options.parts:
            merge(figures, measure_speed(task, task.alike, options.rounds, steps))
        if "profile" in options.parts:
            merge(figures, measure_profile(task, task.alike, steps))
    if task.threshold is not None and "threshold" in options.parts:
        merge(figures, measure_threshold(task, options.seeds))
    return figures


def show(tasks: dict[str, dict[str, Any]]) -> None:
    """Print each figure of ours beside theirs, and what is asked; then where our time goes."""
    print(f"\n{'task':<16} {'figure':<22} {'ours':>9} {'sb3':>9} {'ratio':>7} {'asked':>7}")
    for name, figures in tasks.items():
        for figure in ("steps_per_s", "seconds_to_threshold"):
            if figure in figures.get("ours", {}):
                print(_line(name, figure, figures))
    profiled = {name: f for name, f in tasks.items() if "shares" in f.get("ours", {})}
    if not profiled:
        return
    print(
        f"\n{'share of time':<16}" + "".join(f"{part:>13}" for part in PARTS) + "  products alone"
    )
    for name, figures in profiled.items():
        shares = "".join(f"{figures['ours']['shares'][part]:>13.1%}" for part in PARTS)
        bare = figures["matrix_products"]
        alone = f"{bare['share_of_ours']:.1%} ({bare['us_an_update']:.0f} µs an update)"
        print(f"{name:<16}{shares}  {alone}")


def _line(name: str, figure: str, figures: dict[str, Any]) -> str:
    mine, its = figures["ours"][figure], figures["sb3"][figure]
    if isinstance(mine, dict):
        mine, its = mine["median"], its["median"]
    ratio, asked = figures[f"{figure}_ratio"], TARGETS[f"{figure}_ratio"].get(name)
    cells = [_number(mine), _number(its), "" if ratio is None else f"{ratio:.2f}"]
    missed = "missed" if asked and (ratio is None or ratio < asked) else ""
    wanted = f"≥ {asked:g}" if asked else ""
    line = f"{name:<16} {figure:<22} {cells[0]:>9} {cells[1]:>9} {cells[2]:>7} {wanted:>7} {missed}"
    return line.rstrip()


def _number(value: float | None) -> str:
    if value is None:
        return "never"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def main() -> None:
    names = [task.name for task in TASKS]
    parts = ["speed", "threshold", "profile"]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=names, default=names)
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--rounds", type=int, default=5, help="of speed")
    parser.add_argument("--seeds", type=int, default=3, help="of threshold")
    parser.add_argument("--steps", type=int, help="of speed and profile; default: the task's")
    options = parser.parse_args()
    report: dict[str, Any] = {"commit": commit(), "machine": machine(), "tasks": {}}
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    for task in TASKS:
        if task.name in options.tasks:
            print(task.name, flush=True)
            report["tasks"][task.name] = measure(task, options)
            REPORT.write_text(json.dumps(report, indent=2) + "\n")
    show(report["tasks"])


if __name__ == "__main__":
    main()
