"""Known vulnerabilities in the pinned packages, by pip-audit: python -m flows.looking_back.audit.

pip-audit reports a package that PyPI does not tell about as skipped, and ends well. Where PyPI
cannot be asked, as behind most mirrors, it would find nothing wrong with anything. So PyPI is asked
first, and a skipped package is an error.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

from distillery.commands import surroundings
from distillery.errors import DistilleryError, StageError

TOOL = "pip-audit==2.10.1"
REQUIREMENTS = "requirements.txt"
ASKED = "https://pypi.org/pypi/django/3.0.2/json"
"""What pip-audit asks of each pin, here of a release that is known to be vulnerable."""
PROBE = "that release is a probe, known to be vulnerable and none of the pinned packages"
ASK_SECONDS = 10.0


def main(arguments: list[str] | None = None) -> int:
    """Audit the pinned packages and return the exit status, 0 where nothing is known of them."""
    parser = argparse.ArgumentParser(prog="python -m flows.looking_back.audit", description=__doc__)
    parser.parse_args(arguments)
    surroundings.settle()
    try:
        check_service(ASKED)
    except DistilleryError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return subprocess.run(command(Path.cwd() / REQUIREMENTS), check=False).returncode


def command(requirements: Path) -> list[str]:
    """Return the command that audits a file of pinned packages; it installs none of them."""
    return [
        *(sys.executable, "-m", "uv", "tool", "run", TOOL),
        *("--strict", "--disable-pip", "--require-hashes", "--progress-spinner=off"),
        f"--requirement={requirements}",
    ]


def check_service(url: str) -> None:
    """Make sure that vulnerabilities can be asked for.

    Args:
        url: what PyPI knows about a release that is known to be vulnerable.

    Raises:
        StageError: no answer, or one that says nothing about vulnerabilities.
    """
    try:
        with urllib.request.urlopen(url, timeout=ASK_SECONDS) as answer:
            found = json.load(answer)
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise StageError(
            f"{url}: cannot be read ({error}), so nothing was audited ({PROBE}); run make audit "
            "where PyPI itself can be reached, a mirror does not know vulnerabilities"
        ) from None
    if not isinstance(found, dict) or not found.get("vulnerabilities"):
        raise StageError(
            f"{url}: names no vulnerabilities, expected some, so nothing was audited ({PROBE}); "
            "run make audit where PyPI itself can be reached, a mirror does not know "
            "vulnerabilities"
        )


if __name__ == "__main__":
    sys.exit(main())
