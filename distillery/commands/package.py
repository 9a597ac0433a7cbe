"""A student to hand over: `distillery package [--version VERSION]`, `distillery page`."""

from __future__ import annotations

import sys
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillery.commands.arguments import add_version
from distillery.commands.export import EXPORTED, calibration_of
from distillery.params.file import PARAMS_FILE
from distillery.params.stages import PackageParams

if TYPE_CHECKING:
    import numpy as np

    from distillery.serve.package import Form, Student
    from distillery.tracking.facts import Facts

PACKAGE, PAGE = EXPORTED / "package", EXPORTED / "page"
NPM_CACHE = "scratch/npm"
"""What npm brought, below the workspace."""


@dataclass(frozen=True)
class _Found:
    """A registered version, ready to be written."""

    facts: Facts
    student: Student
    calibration: list[np.ndarray]
    form: Form


def add_commands(commands: Any) -> None:
    """Add the commands to a parser's list of them."""
    package = commands.add_parser(
        "package",
        help="a registered model as a folder to hand over",
        description="Write a registered model with a card, an example, its forms for sherpa-onnx "
        "and for browsers, and checksums.",
    )
    page = commands.add_parser(
        "page",
        help="a registered model as a web page that needs no server of ours",
        description="Write a folder of static files that recognises speech in the browser.",
    )
    for command, out in ((package, PACKAGE), (page, PAGE)):
        add_version(command)
        command.add_argument(
            "--out", type=Path, default=out, metavar="DIR", help=f"folder to write (default: {out})"
        )
    package.add_argument(
        "--no-page", action="store_true", help="without the page, for which npm fetches 33 MB"
    )
    package.set_defaults(run=_package)
    page.set_defaults(run=_page)


def _find(root: Path, params: PackageParams, version: str | None, command: str) -> _Found:
    """Return a version's student and what is known of it.

    Raises:
        TrackingError: there is no such version.
        ModelError: its files are damaged.
    """
    from distillery.architectures.known import ARCHITECTURES
    from distillery.models.recogniser import Recogniser
    from distillery.serve.package import Form, Student
    from distillery.tracking.facts import facts_of
    from distillery.tracking.store import Tracking
    from distillery.tracking.versions import checked_folder, uri_of

    tracking = Tracking(params.register, root, command)
    facts = facts_of(tracking, uri_of(params.register.model_name, version))
    with tracking.explained():
        saved = checked_folder(tracking, f"models:/{facts.name}/{facts.number}")
    recogniser = Recogniser.load(saved, ARCHITECTURES)
    calibration = calibration_of(root, recogniser.sample_rate_hz)
    student = Student.of(saved, recogniser, calibration)
    title = params.package.title or facts.name
    about = f"Version {facts.number}, in this browser alone: no sound leaves it."
    return _Found(facts, student, calibration, Form(title, about))


def _package(options: Namespace) -> int:
    from distillery.files import whole_folder
    from distillery.serve.card import model_card
    from distillery.serve.package import check_target, names_in, write_package

    root, out = Path.cwd(), options.out
    params = PackageParams.load(root / PARAMS_FILE)
    check_target(out)
    found = _find(root, params, options.version, "make package")
    cache = None if options.no_page else root / NPM_CACHE

    def card(sizes: Any) -> str:
        return model_card(found.facts, params.package, params.evaluate, sizes)

    with whole_folder(out) as folder:
        missing = write_package(folder, found.student, found.form, found.calibration, cache, card)
    for line in missing:
        sys.stderr.write(f"note: {line}\n")
    _tell(out, len(names_in(out)), found)
    return 0


def _page(options: Namespace) -> int:
    from distillery.files import whole_folder
    from distillery.serve.browser import write_page
    from distillery.serve.package import check_target, names_in, write_sums

    root, out = Path.cwd(), options.out
    params = PackageParams.load(root / PARAMS_FILE)
    check_target(out)
    found = _find(root, params, options.version, "make page")
    student, form = found.student, found.form
    with whole_folder(out) as folder:
        write_page(
            folder,
            student.page_files,
            student.model_file,
            form.title,
            form.about,
            root / NPM_CACHE,
        )
        write_sums(folder)
    _tell(out, len(names_in(out)), found)
    sys.stdout.write(
        f"To see it: make ui, or python -m http.server 8000 --bind 127.0.0.1 --directory {out}\n"
    )
    return 0


def _tell(out: Path, num_files: int, found: _Found) -> None:
    facts = found.facts
    sys.stdout.write(
        f"{out}: version {facts.number} of {facts.name}, {num_files} files, served as "
        f"{found.student.model_file}\n"
    )
