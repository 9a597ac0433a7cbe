"""A week of scheduled retraining in fast motion: python -m examples.week [--out FILE]

Everything is real but the clock: the flow runs from the deployment that `make schedule` serves,
started by hand instead of by cron; DVC, MLflow, the gate and the rollback are the ones of every
day. It happens in a clone of this repository, as committed, under scratch/week, which stays for a
look around. The recordings are generated speech (corpus `commands`).

The teacher is trained once, before the week, on speakers that the week never hears, and
registered. As registered models are students, what is registered is the teacher's network, begun
from its weights (`init: teacher`) and trained for two more epochs.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from distillery.commands import surroundings
from distillery.errors import DistilleryError
from distillery.files import write_bytes
from examples.week import nights
from examples.week.page import PLOT_FILE, report, table
from examples.week.plan import WEEK
from examples.week.workspace import git

PLACE = "scratch/week"
SETTINGS = "examples/week.yaml"
TEACHER_EPOCHS = 30


def main(arguments: Sequence[str] | None = None) -> int:
    """Live through the week and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m examples.week", description=__doc__)
    parser.add_argument("--out", type=Path, help="where the page goes; scratch/week/week.md")
    options = parser.parse_args(arguments)
    surroundings.settle()
    root, start = Path.cwd(), time.monotonic()
    logging.basicConfig(format="%(message)s", stream=sys.stdout, force=True)
    nights.logger.setLevel(logging.INFO)  # of others only warnings
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    place = root / PLACE
    out = options.out or place / "week.md"
    settings = yaml.safe_load((root / SETTINGS).read_text("utf-8"))
    try:
        commit = git(root, "rev-parse", "HEAD")
        mornings = nights.live(root, place, WEEK, settings, TEACHER_EPOCHS)
    except DistilleryError as error:
        sys.stdout.flush()
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    page = report(mornings, commit, time.monotonic() - start, out.with_suffix(".png").name)
    write_bytes(out, page.encode())
    shutil.copyfile(place / "workspace" / PLOT_FILE, out.with_suffix(".png"))
    sys.stdout.write(f"\n{table(mornings)}\n\n{out}; look around: cd {place / 'workspace'} && ")
    sys.stdout.write(f"{sys.executable} -m flows.servers.ui\n")
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)
