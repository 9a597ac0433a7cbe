"""Run a Python module that dies with its starter: python -m flows.servers.child NAME …"""

from __future__ import annotations

import os
import runpy
import sys

from tasks.stage import STARTER, die_with_parent


def main() -> None:
    """Become the module named first, with the arguments that follow."""
    die_with_parent()
    os.environ[STARTER] = str(os.getpid())  # for what this one starts
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
