"""A registered model on one's own labelled recordings: `distillery score DIR [--version VERSION]`.

Figures go to the terminal and, as a run, to MLflow: below the run that made the version, where that
is in the experiment of the settings.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillery.commands.arguments import add_version
from distillery.console import as_text, new_table
from distillery.data.units import Unit
from distillery.data.workspace import PREPARED
from distillery.errors import DistilleryError
from distillery.evaluate.tables import with_interval
from distillery.params.evaluate import EvaluateParams
from distillery.params.file import PARAMS_FILE
from distillery.params.stages import ScoreParams

if TYPE_CHECKING:
    from distillery.data.spelling import SpellingRule
    from distillery.evaluate.rates import Rates
    from distillery.serve.scoring import Labelled, Scored
    from distillery.tracking.store import Tracking

ROLE = "score"
"""What the tag `distillery.role` says of such runs."""
EXIT_ERROR = 1
EVERYBODY = "all"
NUM_CHARACTERS = 10


@dataclass(frozen=True)
class Version:
    """A version of a registered model."""

    name: str
    """Of the registered model."""
    number: str
    run: str
    """Id of the run that made it; empty where none did."""
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Score:
    """What a registered model did on somebody's recordings."""

    version: Version
    labelled: Labelled
    scored: Scored
    rates: Rates
    params: EvaluateParams
    """How intervals are drawn."""
    num_trained_on: int
    """Recordings that it learnt from, byte for byte."""

    @property
    def title(self) -> str:
        """In a line, which model on what."""
        from distillery.tracking.names import STUDENT, model_label
        from distillery.tracking.versions import FORMAT_TAG, ROLE_TAG

        tags, table = self.version.tags, self.scored.predictions
        model = model_label(tags.get(ROLE_TAG, STUDENT), tags.get("student", "?"))
        speakers = table["speaker"].nunique()
        by = f" by {speakers} speakers" if speakers else ""
        return (
            f"{self.version.name} version {self.version.number} ({model}, seed "
            f"{tags.get('seed', '?')}, as {tags.get(FORMAT_TAG, 'torch')}) on "
            f"{self.labelled.manifest}: {len(table)} utterances, {self.rates.words} "
            f"{self.scored.unit.plural}{by}"
        )


def add_commands(commands: Any) -> None:
    """Add the command to a parser's list of them."""
    command = commands.add_parser(
        "score",
        help="WER of a registered model on your own labelled recordings",
        description="Print WER and CER, or the accuracy of expected phrases, with intervals, of "
        "all and of each speaker, and log them to MLflow.",
    )
    command.add_argument(
        "place",
        type=Path,
        metavar="DIR",
        help="a folder with manifest.csv, .tsv or .jsonl (path, text or expected[, speaker]), or "
        "such a file",
    )
    add_version(command)
    command.set_defaults(run=_run)


def score_folder(root: Path, place: Path, version: str | None) -> tuple[Score, Tracking]:
    """Return what a registered model hears in somebody's recordings; nothing is logged.

    Args:
        root: the workspace whose params.yaml says where the registry is.
        place: as of `find_labelled`.
        version: number, alias or URI; None takes the champion.

    Raises:
        CorpusError, ManifestError: the recordings cannot be used.
        TrackingError: there is no such version.
        ModelError: its files are damaged.
    """
    from distillery.serve.scoring import find_labelled

    labelled = find_labelled(place)  # before anything that takes long
    from distillery.data.text import Vocabulary
    from distillery.evaluate.rates import rates
    from distillery.serve.onnx_recogniser import TOKENS_FILE
    from distillery.serve.scoring import score
    from distillery.serve.served import load_served
    from distillery.tracking.store import Tracking
    from distillery.tracking.versions import checked_folder, uri_of, version_of

    params = ScoreParams.load(root / PARAMS_FILE)
    tracking = Tracking(params.register, root, f"make score DIR={place}")
    with tracking.explained():
        found = version_of(tracking, uri_of(params.register.model_name, version))
        folder = checked_folder(tracking, f"models:/{found.name}/{found.version}")
    recogniser, vocabulary = load_served(folder), Vocabulary.load(folder / TOKENS_FILE)
    scored = score(recogniser, vocabulary, labelled, _spelling(found.tags))
    result = Score(
        Version(found.name, str(found.version), found.run_id or "", found.tags),
        labelled,
        scored,
        rates(scored.predictions, params.evaluate),
        params.evaluate,
        _num_trained_on(root, folder, scored),
    )
    return result, tracking


def _spelling(tags: Mapping[str, str]) -> SpellingRule:
    """Return by which rule a version's texts are spelt; one of before has none."""
    from distillery.data.spelling import SpellingRule
    from distillery.serve.scoring import AS_WRITTEN
    from distillery.tracking.versions import SPELLING_TAG

    content = tags.get(SPELLING_TAG)
    return AS_WRITTEN if content is None else SpellingRule.parse(content)


def _num_trained_on(root: Path, folder: Path, scored: Scored) -> int:
    """Return how many of the recordings a version learnt from.

    One of old does not say; then those count that are in the workspace's training split.
    """
    from distillery.data.manifest import PreparedData
    from distillery.tracking.trained_on import are_among, read_keys

    heard = read_keys(folder)
    if heard is not None:
        return int(are_among(sorted(scored.keys), heard).sum())
    try:
        trained_on = set(PreparedData.open(root / PREPARED).split("train")["audio_key"])
    except (DistilleryError, OSError):  # nothing is prepared here
        return 0
    return len(scored.keys & trained_on)


def render(score: Score) -> str:
    """Return the figures for a terminal."""
    from distillery.serve.scoring import by_speaker

    table = new_table()
    interval = f"[{score.params.confidence:.0%} interval]"
    whole, unit = score.rates, score.scored.unit
    in_phrases = unit is Unit.PHRASE
    rates = [f"{'phrase accuracy' if in_phrases else unit.rate} % {interval}"]
    if unit is Unit.WORD:
        rates.append(f"CER % {interval}")
    for header in ("speaker", "utterances", unit.plural, *rates):
        table.add_column(header, justify="left" if header == "speaker" else "right")
    count = len(score.scored.predictions)
    rows = [
        (name, item.utterances, item.words, item.wer, item.cer)
        for name, item in by_speaker(score.scored.predictions, score.params)
    ]
    for name, utterances, words, wer, cer in [
        (EVERYBODY, count, whole.words, whole.wer, whole.cer),
        *(rows if len(rows) > 1 else []),
    ]:
        pair = [rate.complement if in_phrases else rate for rate in (wer, cer)]
        shown = [with_interval(rate, " ") for rate in pair[: len(rates)]]
        table.add_row(name, f"{utterances:,}", f"{words:,}", *shown)
    return as_text(score.title, "", table, *remarks(score))


def remarks(score: Score) -> list[str]:
    """Return what stands below the table: what was left out, and what to mind."""
    labelled, scored = score.labelled, score.scored
    found = []
    if labelled.num_unlabelled:
        lacked = "expected phrases" if labelled.by_phrases else "a transcript"
        found.append(f"{labelled.num_unlabelled} recordings without {lacked} were left out")
    if scored.num_empty:
        what = "lists of phrases" if labelled.by_phrases else "transcripts"
        found.append(f"{scored.num_empty} {what} without a letter were left out")
    if scored.failed:
        found.append(f"{len(scored.failed)} recordings could not be decoded, and were left out")
    if scored.unknown:
        shown = ", ".join(
            f"{character!r} × {count}"
            for character, count in scored.unknown.most_common(NUM_CHARACTERS)
        )
        found.append(f"the model cannot write {shown}: each counts as an error")
    if score.num_trained_on:
        found.append(
            f"the model learnt from {score.num_trained_on} of these recordings: on others its "
            f"{'rate of errors' if scored.unit is Unit.PHRASE else scored.unit.rate} may be higher"
        )
    return found


def log_score(score: Score, tracking: Tracking) -> str:
    """Log the figures as a run of MLflow's, and return its id.

    Raises:
        TrackingError: MLflow cannot be reached or refuses.
    """
    import pandas as pd

    from distillery.serve.scoring import by_speaker
    from distillery.tracking.store import DESCRIPTION_TAG, PARENT_TAG

    version, table, folder = score.version, score.scored.predictions, score.labelled.manifest.parent
    tags = {
        "distillery.role": ROLE,
        "registered.model": version.name,
        "registered.version": version.number,
        "score.folder": str(folder),
        "score.sha256": score.scored.digest,
        "unit": score.scored.unit.value,
        DESCRIPTION_TAG: "\n\n".join([score.title, *remarks(score)]),
    }
    speakers = pd.DataFrame(
        {
            "speaker": name,
            "utterances": item.utterances,
            "words": item.words,
            **item.wer.entries("wer"),
            **item.cer.entries("cer"),
        }
        for name, item in by_speaker(table, score.params)
    )
    with tracking.explained():
        if version.run and tracking.holds(version.run):
            tags[PARENT_TAG] = version.run
        run = tracking.create_run(f"score {folder.resolve().name} v{version.number}", tags)
        tracking.log_values(run, params={}, metrics=metrics(score), tags={})
        predictions = table.drop(columns=["model", "seed"])
        tracking.log_table(run, predictions, "predictions.json")
        columns = [name for name in speakers if not str(name).endswith("_sd")]
        tracking.client.log_text(run, speakers[columns].to_csv(index=False), "per_speaker.csv")
        tracking.end_run(run)
    return run


def metrics(score: Score) -> dict[str, float]:
    """Return the figures by the names that they have in MLflow."""
    entries = score.rates.entries()
    values = {
        f"{ROLE}/{name}": float(value)
        for name, value in entries.items()
        if isinstance(value, int | float)
    }
    table = score.scored.predictions
    if score.scored.unit is Unit.PHRASE:
        found = score.rates.wer.complement.entries("phrase_accuracy")
        values |= {f"{ROLE}/{name}": float(v) for name, v in found.items() if v is not None}
    return values | {
        f"{ROLE}/utterances": float(len(table)),
        f"{ROLE}/speakers": float(table["speaker"].nunique()),
        f"{ROLE}/seconds": float(table["duration_seconds"].sum()),
        f"{ROLE}/failed": float(len(score.scored.failed)),
    }


def _run(options: Namespace) -> int:
    score, tracking = score_folder(Path.cwd(), options.place, options.version)
    sys.stdout.write(f"{render(score)}\n")
    sys.stdout.flush()
    for line in score.scored.failed:
        sys.stderr.write(f"error: {line}\n")
    run = log_score(score, tracking)
    sys.stdout.write(f"\nLogged to MLflow: run {run}\n")
    return EXIT_ERROR if score.scored.failed else 0
