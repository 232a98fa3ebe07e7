"""How fast the replay takes rows and gives batches, beside other replays, and what that costs.

    python tests/benchmarks/bench_replay.py [--rounds 5] [--peers sb3 …] [--profile]

Rows are CartPole's: an observation of 4 float32, an action, a reward, two flags. Replays hold
100,000 of them (1,000,000 for the rebuilding of a mirror) and batches are of 256. Ours stands on
a Valkey of its own with an append-only file (appendfsync everysec), of which one core is used;
rows count once the server has acknowledged them, and only steps count, not the states that
close a fragment. Frames are 84x84 bytes, stacked by 4, appended in chunks of 512 steps from 8
environments. `training` is the time of one DQN run (cartpole-dqn's settings, without
evaluation) through the replay in Redis, divided by its time on the same ring without Redis.

Ours and the peers are measured in turn within each round, and medians over the rounds are
given, so that what else the machine does weighs on all alike. Machines, and hours, differ by
more than the targets leave room for: beside each µs figure stands how many times it took what
fancy indexing of one numpy array took in the same round (the peer `numpy`), which is the least
that any replay in memory can do. Peers get virtual environments
under $TUTELAGE_PEERS (default ~/.cache/tutelage-peers) on first use; one that cannot be had is
reported with the reason. Writes build/bench/replay.json. `--profile` shows instead where the
time of each of our figures goes, here and in the server.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from operator import truediv
from pathlib import Path
from typing import Any

from peer_process import PEERS, Peer, PeerFailed, PeerProcess
from replay_ours import Ours
from replay_profile import show_profiles
from replay_training import Training

from services.common.embedded_redis import EmbeddedRedis

REPORT = Path("build/bench/replay.json")
INSERT, SAMPLE = "insert_rows_per_s", "sample_256_us"
FANCY_INDEX = "fancy_index_256_us"
# What is asked of each figure: at least, or at most.
TARGETS: dict[str, tuple[str, float]] = {
    "append_1024_rows_per_s": ("≥", 1_000_000),
    "append_64_rows_per_s": ("≥", 300_000),
    "sample_256_us": ("≤", 40),
    "sample_prioritised_256_us": ("≤", 100),
    "sample_server_256_us": ("≤", 500),
    "rebuild_1m_s": ("≤", 3),
    "frames_bytes_ratio": ("≤", 1.1),
    "frames_batches_per_s": ("≥", 2000),
    "training_ratio": ("≤", 1.1),
}


def start_peers(peers: list[Peer], stack: ExitStack, failures: dict[str, str]) -> dict[str, Any]:
    """The peers that can be had, by name; why the others cannot is put into `failures`."""
    running: dict[str, Any] = {}
    for peer in peers:
        try:
            running[peer.name] = PeerProcess(peer)
        except PeerFailed as error:
            failures[peer.name] = str(error)
            print(f"{peer.name}: {error}", flush=True)
        else:
            stack.callback(running[peer.name].stop)
    return running


def measure(url: str, folder: Path, peers: list[Peer], rounds: int) -> dict[str, Any]:
    """Medians of all rounds.

    `ours` by figure, `peers` by peer and figure, `failures` by peer, `references`: what ours
    stands on, taken alone, and `times_numpy`: our µs figures over the peer `numpy`'s.
    """
    failures: dict[str, str] = {}
    mine: dict[str, list[float]] = {}
    references: dict[str, list[float]] = {}
    theirs: dict[str, list[Mapping[str, float]]] = {peer.name: [] for peer in peers}
    with ExitStack() as stack:
        running = start_peers(peers, stack, failures)
        ours = Ours(url)
        stack.callback(ours.close)
        training = Training(url, folder)
        measures = {**ours.measures, "training_ratio": training.ratio}
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", flush=True)
            for name, take in measures.items():
                mine.setdefault(name, []).append(take())
            for name, take in ours.references.items():
                references.setdefault(name, []).append(take())
            for name in [name for name in running if name not in failures]:
                try:
                    theirs[name].append(running[name].round())
                except PeerFailed as error:
                    failures[name] = str(error)
    return {
        "ours": {name: statistics.median(values) for name, values in mine.items()},
        "peers": {
            **{name: _medians(values) for name, values in theirs.items()},
            "numpy": {INSERT: None, SAMPLE: statistics.median(references[FANCY_INDEX])},
        },
        "times_numpy": {
            name: statistics.median(map(truediv, values, references[FANCY_INDEX]))
            for name, values in mine.items()
            if name.endswith("_us")
        },
        "failures": failures,
        "references": {
            **{name: statistics.median(values) for name, values in references.items()},
            "training_cpu_ratio": statistics.median(training.cpu_ratios),
        },
        "rounds": rounds,
    }


def _medians(rounds: list[Mapping[str, float]]) -> dict[str, float | None]:
    if not rounds:
        return {INSERT: None, SAMPLE: None}
    return {key: statistics.median(each[key] for each in rounds) for key in (INSERT, SAMPLE)}


def show(report: Mapping[str, Any]) -> None:
    """Print ours beside the peers, then each of our figures beside what is asked of it."""
    ours = report["ours"]
    rows = [
        ("ours, mirror", ours["append_1024_rows_per_s"], ours["sample_256_us"]),
        ("ours, prioritised", None, ours["sample_prioritised_256_us"]),
        ("ours, server mode", None, ours["sample_server_256_us"]),
        *((name, f[INSERT], f[SAMPLE]) for name, f in report["peers"].items()),
    ]
    print(f"\n{'replay':<20} {'insert, rows/s':>14} {'sample(256), µs':>16}")
    for name, insert, sample in rows:
        reason = report["failures"].get(name, "")
        print(f"{name:<20} {_number(insert):>14} {_number(sample):>16} {reason}".rstrip())
    print(f"\n{'figure':<28} {'measured':>12} {'asked':>12}")
    for name, value in ours.items():
        sign, bound = TARGETS[name]
        met = value >= bound if sign == "≥" else value <= bound
        asked = f"{sign} {_number(bound)}"
        times = report["times_numpy"].get(name)
        beside = f"{times:.1f} x numpy" if times else ""
        missed = "" if met else "missed"
        print(f"{name:<28} {_number(value):>12} {asked:>12} {beside:>12} {missed}".rstrip())
    print(f"\n{'for comparison, alone':<28}")
    for name, value in report["references"].items():
        print(f"{name:<28} {_number(value):>12}")


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", nargs="*", default=[peer.name for peer in PEERS])
    parser.add_argument("--profile", action="store_true", help="where our time goes")
    arguments = parser.parse_args()
    peers = [peer for peer in PEERS if peer.name in arguments.peers]
    with tempfile.TemporaryDirectory() as name, EmbeddedRedis(Path(name) / "valkey") as server:
        if arguments.profile:
            show_profiles(server.url, Path(name))
            return
        report = measure(server.url, Path(name), peers, arguments.rounds)
    show(report)
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
