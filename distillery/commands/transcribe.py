"""The command `distillery transcribe`: recordings, a folder of them, or one that still grows.

Little is imported at the top, for a text is wanted soon.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillery.errors import AudioError, ModelError
from distillery.tracking.bundle import DIGESTS_FILE, check_bundle

if TYPE_CHECKING:
    from distillery.decoder.decoder import Decoder
    from distillery.decoder.words import Transcript, Word
    from distillery.models.recogniser import Recogniser
    from distillery.serve.reading import Recording
    from distillery.serve.segments import Segment
    from distillery.serve.served import Transcriber

EXIT_ERROR = 1
TEXT, JSONL, SRT, VTT = FORMATS = ("txt", "jsonl", "srt", "vtt")


def add_commands(commands: Any) -> None:
    """Add the command to a parser's list of them."""
    command = commands.add_parser(
        "transcribe",
        help="text of recordings, of a folder of them, or of one that is still growing",
        description="Print FILE<TAB>text for each recording; write a line of JSON for each in a "
        "folder; or follow one that is still growing and print its text as it comes.",
    )
    command.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="recordings (WAV, FLAC, OGG, MP3 and others); or one folder, searched with all below "
        "it; with --stream, one WAV or raw file that may still grow, or - for standard input",
    )
    command.add_argument(
        "--model",
        help="a model folder, models:/NAME@ALIAS or models:/NAME/VERSION; "
        "by default the champion of the model that params.yaml names",
    )
    command.add_argument(
        "--out", type=Path, metavar="FILE", help="for a folder: where the lines of JSON go"
    )
    command.add_argument(
        "--channel",
        type=int,
        metavar="N",
        help="take channel N, counted from 0, of recordings with several (default: mix them)",
    )
    command.add_argument(
        "--stream", action="store_true", help="follow the source; needs a student that streams"
    )
    command.add_argument(
        "--rate",
        type=int,
        metavar="HZ",
        help="with --stream: the source is raw, 16-bit little-endian samples of one channel",
    )
    command.add_argument(
        "--idle",
        type=float,
        default=2.0,
        metavar="SECONDS",
        help="with --stream: a file that has not grown for so long is finished (default: 2)",
    )
    command.add_argument(
        "--hot-word",
        action="append",
        default=[],
        metavar="TEXT[=WEIGHT]",
        help="a word or phrase that is expected, several times for several; the weight is what it "
        "adds to a text's score, in nats (default: 4)",
    )
    _add_forms(command)
    command.set_defaults(run=lambda options: _transcribe(command, options))


def _add_forms(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--format",
        choices=FORMATS,
        default=TEXT,
        help="of recordings: FILE<TAB>text (txt, the default); a line of JSON for each recording, "
        "or for each segment of one of more than a minute, with start, end and confidence of every "
        "word (jsonl); or subtitles of one recording (srt, vtt)",
    )
    command.add_argument(
        "--n-best",
        type=int,
        default=0,
        metavar="N",
        help="with --format jsonl: up to N texts that may have been spoken, with their scores",
    )


def _transcribe(command: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    sources, out = options.sources, options.out
    folders = [source for source in sources if Path(source).is_dir()]
    if options.channel is not None and (options.stream or options.channel < 0):
        command.error("--channel N takes a number from 0 on, and goes without --stream")
    _check_format(command, options, is_plain=bool(folders) or options.stream)
    if options.stream:
        if len(sources) > 1 or folders or out is not None:
            command.error("--stream follows one file, or - for standard input, and prints its text")
        return _stream(options)
    if options.rate is not None:
        command.error("--rate goes with --stream")
    if folders and (len(sources) > 1 or out is None):
        command.error(f"{folders[0]} is a folder: give it alone, with --out FILE.jsonl")
    if out is not None and not folders:
        command.error(f"--out needs a folder, {sources[0]} is not one")
    recogniser = load_transcriber(options.model, Path.cwd())
    if folders:
        return transcribe_folder(
            recogniser, Path(folders[0]), out, options.channel, options.hot_word
        )
    files = [Path(source) for source in sources]
    if options.format != TEXT:
        timed = Timed(recogniser, options.format, options.channel, options.hot_word, options.n_best)
        return timed.transcribe(files)
    return transcribe(recogniser, files, options.channel, options.hot_word)


def _check_format(
    command: argparse.ArgumentParser, options: argparse.Namespace, *, is_plain: bool
) -> None:
    if options.format != TEXT and is_plain:
        command.error("--format goes with recordings, without --stream, and with no folder")
    if options.format in (SRT, VTT) and len(options.sources) > 1:
        command.error(f"--format {options.format} takes one recording; give the others alone")
    if options.n_best < 0 or (options.n_best and options.format != JSONL):
        command.error("--n-best N takes a number from 0 on, and goes with --format jsonl")


def _stream(options: argparse.Namespace) -> int:
    from distillery.decoder.decoder import Decoder

    folder = find_model(options.model, Path.cwd())
    recogniser = load_model(str(folder), Path.cwd())
    decoder = Decoder.find(folder, recogniser.vocabulary)
    source, rate_hz = options.sources[0], options.rate
    return stream(recogniser, source, rate_hz, options.idle, decoder, options.hot_word)


def transcribe(
    recogniser: Transcriber,
    files: list[Path],
    channel: int | None = None,
    hot_words: Sequence[str] = (),
) -> int:
    """Print each recording's text; one that cannot be read is reported and the others go on."""
    from distillery.serve.reading import Recording
    from distillery.serve.texts import parse_hot_words

    status, expected = 0, parse_hot_words(hot_words, recogniser.vocabulary)
    for file in files:
        recording = Recording(file, recogniser.sample_rate_hz, channel=channel)
        try:
            text = recogniser.transcribe([recording.sound()], expected)[0]
        except AudioError as error:
            sys.stderr.write(f"error: {error}\n")
            status = EXIT_ERROR
            continue
        if recording.caution is not None:
            sys.stderr.write(f"warning: {file}: {recording.caution} with --channel\n")
        sys.stdout.write(f"{file}\t{text}\n")
        sys.stdout.flush()
    return status


class Timed:
    """Recordings with the times of their words, printed as they come."""

    def __init__(
        self,
        recogniser: Transcriber,
        form: str,
        channel: int | None = None,
        hot_words: Sequence[str] = (),
        num_hypotheses: int = 0,
    ) -> None:
        """Say what is wanted.

        Args:
            recogniser: the student.
            form: jsonl, srt or vtt.
            channel: the one to take, from 0 on; None mixes all.
            hot_words: as a request writes them.
            num_hypotheses: texts for each line of JSON.

        Raises:
            ModelError: a hot word cannot be written.
        """
        from distillery.serve.texts import parse_hot_words

        self._recogniser, self._form, self._channel = recogniser, form, channel
        self._hot_words = parse_hot_words(hot_words, recogniser.vocabulary)
        self._num_hypotheses = num_hypotheses

    def transcribe(self, files: Sequence[Path]) -> int:
        """Print recordings; one that cannot be read is reported and the others go on."""
        from distillery.serve.reading import Recording

        status = 0
        for file in files:
            recording = Recording(file, self._recogniser.sample_rate_hz, channel=self._channel)
            try:
                if self._form == JSONL:
                    self._print_lines(file, recording)
                else:
                    self._print_cues(recording)
            except AudioError as error:
                sys.stderr.write(f"error: {error}\n")
                status = EXIT_ERROR
                continue
            if recording.caution is not None:
                sys.stderr.write(f"warning: {file}: {recording.caution} with --channel\n")
        return status

    def _heard(self, recording: Recording) -> Iterator[tuple[Segment, Transcript]]:
        from distillery.serve.segments import in_segments

        for segment in in_segments(recording, self._recogniser.sample_rate_hz):
            found = self._recogniser.recognise(
                segment.samples, self._hot_words, self._num_hypotheses
            )
            yield segment, found.later(segment.start)

    def _print_lines(self, file: Path, recording: Recording) -> None:
        for segment, found in self._heard(recording):
            times = {"start": round(segment.start, 3), "end": round(segment.end, 3)}
            line = {"path": str(file), **times, **found.entries}
            sys.stdout.write(f"{json.dumps(line, ensure_ascii=False)}\n")
            sys.stdout.flush()

    def _print_cues(self, recording: Recording) -> None:
        from distillery.decoder.words import unit_of_tokens
        from distillery.serve import subtitles

        unit = unit_of_tokens(self._recogniser.vocabulary)
        words: Iterator[Word] = (
            word for _, found in self._heard(recording) for word in found.words
        )
        if self._form == VTT:
            sys.stdout.write(subtitles.VTT_HEADER)
        for number, cue in enumerate(subtitles.cues_of(words, unit), 1):
            sys.stdout.write(
                subtitles.vtt(cue) if self._form == VTT else subtitles.srt(number, cue)
            )
            sys.stdout.flush()


def transcribe_folder(
    recogniser: Transcriber,
    folder: Path,
    out: Path,
    channel: int | None = None,
    hot_words: Sequence[str] = (),
) -> int:
    """Write the texts of a folder's recordings and say how many there are."""
    from distillery.serve import transcription
    from distillery.serve.texts import parse_hot_words

    expected = parse_hot_words(hot_words, recogniser.vocabulary)
    counts = transcription.transcribe_folder(
        recogniser, folder, out, channel=channel, hot_words=expected
    )
    if counts.cautions:
        sys.stderr.write(
            f"warning: {len(counts.cautions)} recordings have channels that do not mix well, such "
            f"as {counts.cautions[0]} with --channel\n"
        )
    sys.stderr.write(
        f"{out}: {counts.num_transcribed} transcribed, {counts.num_kept} were there already, "
        f"{counts.num_failed} failed"
        + ("; their lines there say why\n" if counts.num_failed else "\n")
    )
    return EXIT_ERROR if counts.num_failed else 0


def stream(
    recogniser: Recogniser,
    source: str,
    rate_hz: int | None,
    idle_seconds: float,
    decoder: Decoder | None = None,
    hot_words: Sequence[str] = (),
) -> int:
    """Print the text of a recording that still grows, as it comes, on one line.

    With a decoder words are printed once nothing that follows can change them.

    Ctrl-C ends the recording, not the command: the text of what was recorded is printed to its end.
    """
    from distillery.serve.following import follow
    from distillery.serve.streaming import StreamingRecogniser
    from distillery.serve.texts import parse_hot_words

    expected = parse_hot_words(hot_words, recogniser.vocabulary)
    recognition = StreamingRecogniser(recogniser, decoder, expected)
    shown = ""
    with follow(source, recogniser.sample_rate_hz, rate_hz, idle_seconds) as chunks:
        for chunk, is_last in chunks:
            recognition.push(chunk, last=is_last)
            # Greedy texts only grow; a vocabulary whose texts change starts a new line.
            text = recognition.settled_text
            is_longer = text.startswith(shown)
            sys.stdout.write(text.removeprefix(shown) if is_longer else f"\n{text}")
            sys.stdout.flush()
            shown = text
    sys.stdout.write("\n")
    return 0


def load_model(model: str | None, root: Path) -> Recogniser:
    """Return a student as it was trained; see `find_model`.

    Raises:
        DistilleryError: as `find_model`, or the model is none that PyTorch can run.
    """
    folder = find_model(model, root)
    from distillery.architectures.known import ARCHITECTURES
    from distillery.models.recogniser import Recogniser

    return Recogniser.load(folder, ARCHITECTURES)


def load_transcriber(model: str | None, root: Path) -> Transcriber:
    """Return a student in the format that it is served in; see `find_model`.

    A folder that was never registered is run by PyTorch.

    Raises:
        DistilleryError: as `find_model`, or a file does not fit the others.
    """
    folder = find_model(model, root)
    from distillery.serve.served import load_served

    return load_served(folder)


def find_model(model: str | None, root: Path) -> Path:
    """Return where a model's files lie, once they are known to be as they were published.

    Args:
        model: a folder or a registry URI; None takes the champion.
        root: the workspace whose params.yaml says where the registry is.

    Raises:
        ParamsError: params.yaml is needed and cannot be used.
        TrackingError: the registry does not hold the model.
        ModelError: its files are damaged.
    """
    if model is not None and not model.startswith("models:/"):
        folder = Path(model)
        if not folder.is_dir():
            raise ModelError(f"{folder}: no such folder; expected one with a saved model")
        if (folder / DIGESTS_FILE).exists():
            check_bundle(folder)
        return folder
    from distillery.params.file import PARAMS_FILE
    from distillery.params.stages import RegistryParams
    from distillery.tracking.store import Tracking
    from distillery.tracking.versions import CHAMPION, checked_folder

    settings = RegistryParams.load(root / PARAMS_FILE).register
    tracking = Tracking(settings, root)
    return checked_folder(tracking, model or f"models:/{settings.model_name}@{CHAMPION}")
