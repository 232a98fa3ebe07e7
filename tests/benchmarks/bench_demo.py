"""How the demo comes out over seeds: `tutelage demo` whole, once for each.

    python tests/benchmarks/bench_demo.py [--seeds 0 1 2 3 4 5 6 7]

Each run trains a policy of its own, so that what is taught differs as much as what is learned.
Writes build/bench/demo.json; exit code 0 only if every run's was.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

RESULT = Path("build/bench/demo.json")
COLUMNS = {
    "labels": "labels given",
    "accuracy": "accuracy on",
    "return": "fine-tuned policy's mean return",
    "near before": "≤ 0.3, before",
    "near after": "≤ 0.3, after",
    "time": "time in all",
}


def run_demo(seed: int, folder: Path) -> dict[str, Any]:
    """What one demo measured, by column, with its exit code."""
    table = folder / f"{seed}.json"
    command = [str(Path(sys.executable).with_name("tutelage")), "demo", "--seed", str(seed)]
    command += ["--folder", str(folder / f"demo-{seed}"), "--json", str(table)]
    ended = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    lines = json.loads(table.read_text()) if table.exists() else []
    return {
        "seed": seed,
        "exit code": ended.returncode,
        **{
            column: next((line["measured"] for line in lines if what in line["what"]), "")
            for column, what in COLUMNS.items()
        },
    }


def main() -> None:
    """Print a row a seed, as each run ends."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(8)))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in parser.parse_args().seeds:
            rows.append(run_demo(seed, Path(folder)))
            print(" | ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n")
    raise SystemExit(any(row["exit code"] for row in rows))


if __name__ == "__main__":
    main()
