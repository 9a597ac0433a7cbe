"""What prepare says of the data at its end: a table, and what a person should know."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from operator import itemgetter
from pathlib import Path

from distillery.data.manifest import SegmentCounts, Summary
from distillery.data.units import PHRASES_APART, Unit
from distillery.prepare.profile import Repeated
from distillery.prepare.rows import Rows
from distillery.prepare.splits import BY_UTTERANCE, Kept

CLIPPED = 0.01
"""Share of clipped samples that is worth a word."""


def table(summary: Summary, rows: Rows) -> str:
    """Return the table of splits, with how each was chosen, and what was dropped."""
    header = ("split", "utterances", "unlabelled", "speakers", "hours")
    lines = ["{:<8}{:>12}{:>12}{:>10}{:>9}  chosen".format(*header)]
    for split, counts in summary.splits.items():
        chosen = summary.split_rule.get(split, "the rest")
        lines.append(
            f"{split:<8}{counts.num_utterances:>12}{counts.num_unlabelled:>12}"
            f"{counts.num_speakers:>10}{counts.hours:>9.3f}  {chosen}"
        )
    lines.extend(_why_by_utterance(summary, rows))
    if summary.unit is Unit.CHARACTER:
        lines.append(
            "unit: character (CER), for most letters are of a script without spaces between words, "
            "or prepare.unit says so"
        )
    if hidden := summary.num_hidden_transcripts:
        lines.append(f"hidden: transcripts of {hidden} training utterances")
    if (segments := summary.segments) is not None:
        lines.append(_segments_in_words(segments))
    lines.extend(f"dropped: {reason} {count}" for reason, count in summary.dropped.items())
    return "\n".join(lines)


def _segments_in_words(segments: SegmentCounts) -> str:
    left_out = "".join(
        f", {reason} {seconds:.1f} s" for reason, seconds in segments.seconds_left_out.items()
    )
    inside = segments.num_without_pause
    return (
        f"cut: {segments.num_recordings} long recordings ({segments.hours:.3f} h) into "
        f"{segments.num_utterances} utterances, left out{left_out or ' nothing'}"
        + (f"; {inside} of them end inside speech, for lack of a pause" if inside else "")
    ).replace("left out,", "left out:")


def _why_by_utterance(summary: Summary, rows: Rows) -> Iterator[str]:
    """Yield why speakers are no measure, where a split was drawn utterance by utterance."""
    drawn = [split for split, rule in summary.split_rule.items() if rule == BY_UTTERANCE]
    if not drawn:
        return
    places = set(rows.columns("speaker", "split"))
    named = {speaker for speaker, _ in places} - {None}
    in_train = {speaker for speaker, split in places if split == "train"} - {None}
    if not named:
        why = "speakers are unknown"
    elif len(named) == 1:
        why = "there is one speaker alone, who is trained on, too"
    elif len(in_train) == 1:
        why = "one speaker is left for training, who is trained on, too"
    else:
        why = "their speakers stand in several splits, or are unknown"
    yield f"by utterance: {' and '.join(drawn)}, for {why}"


def remarks(rows: Rows, repeated: Mapping[str, Repeated], kept: Kept) -> Iterator[str]:
    """Yield sentences about what the data hold that figures will not show.

    Args:
        rows: what was kept.
        repeated: as in the profile.
        kept: former decisions about splits.
    """
    for split, found in sorted(repeated.items()):
        if found.num_in_train:
            yield (
                f"{found.num_in_train} of {found.num_utterances} transcribed utterances of split "
                f"{split} ({found.fraction:.0%}) say a sentence that stands in split train, too: "
                "WER on others may be higher"
            )
    levels = rows.columns("clipped_fraction", "utterance_id")
    clipped = [(fraction, name) for fraction, name in levels if fraction >= CLIPPED]
    if clipped:
        worst, name = max(clipped, key=itemgetter(0))
        yield (
            f"{len(clipped)} utterances have {CLIPPED:.0%} or more of their samples at full scale, "
            f"{name} {worst:.0%}: recorded too loud"
        )
    moved = [
        split
        for name, split in rows.columns("utterance_id", "split")
        if split != "train" and kept.utterances.get(name) == "train"
    ]
    if moved:
        yield (
            f"{len(moved)} utterances that were in split train are in {moved[0]} now, for "
            "the corpus says so; models trained before learnt from them"
        )


def without_transcripts(summary: Summary, rows: Rows) -> Iterator[str]:
    """Yield what follows from splits without transcripts.

    Args:
        summary: of the prepared data.
        rows: what was kept.
    """
    told = [pair for pair in rows.columns("split", "expected") if pair[1] is not None]
    has_phrases = {split for split, _ in told}
    bare = [split for split in ("valid", "test") if not summary.splits[split].num_labelled]
    judged = [split for split in bare if split in has_phrases]
    if judged:
        yield (
            f"split {' and '.join(judged)}: no transcripts, but expected phrases: models are "
            "judged by the share of these that they find"
        )
    spelt = set(summary.alphabet) | set(PHRASES_APART)
    phrases = [phrases for split, phrases in told if split != "train"]
    if strange := sorted(set("".join(phrases)) - spelt):
        yield (
            f"warning: expected phrases hold {', '.join(strange)}, which no text can hold "
            "(prepare.alphabet), so no model will be found to say them; spell them as they are said"
        )
    if unknown := [split for split in bare if split not in has_phrases]:
        yield (
            f"warning: split {' and '.join(unknown)}: neither transcripts nor expected phrases: "
            "models are judged against the teacher's texts, and what it gets wrong stays unknown. "
            "A few transcripts, or a column `expected` in the manifest, change that: "
            "docs/your-own-data.md"
        )
    if not summary.splits["train"].num_labelled:
        yield (
            f"split train: no transcripts; texts are spelt with {summary.alphabet}, which "
            "prepare.language or prepare.alphabet change"
        )


def cautions_as_csv(cautions: Mapping[str, str]) -> bytes:
    """Return the list of recordings whose channels do not mix well, as CSV."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("source_path", "channels"))
    writer.writerows(sorted(cautions.items()))
    return buffer.getvalue().encode("utf-8", errors="backslashreplace")


def caution_of_channels(cautions: Mapping[str, str], path: Path) -> str:
    """Return a warning about them."""
    examples = "; ".join(f"{name}: {caution}" for name, caution in sorted(cautions.items())[:1])
    return (
        f"warning: {len(cautions)} recordings have channels that do not mix well, such as "
        f"{examples}; all of them are listed in {path}, prepare.channel takes one channel"
    )
