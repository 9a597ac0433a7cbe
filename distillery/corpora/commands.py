"""Spoken commands, generated: sentences from a small grammar, spoken by espeak-ng's voices.

A speaker is a voice variant with an English accent, a speaking rate and a pitch. A quarter of the
variants and a quarter of the sentences belong to the test split for ever, so that test voices say,
with voices no training speaker has, what no training speaker said. Everything follows from the
grammar and the settings by hash: more speakers or sentences leave the former ones as they were.

A grammar is a YAML mapping from a rule's name to its alternatives; `{name}` inside an alternative
stands for that rule, and `sentence` is where it starts.
"""

from __future__ import annotations

import functools
import hashlib
import random
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from distillery.corpora.base import Recording
from distillery.corpora.espeak import Voice, check_installed, speak
from distillery.errors import CorpusError
from distillery.files import read_text
from distillery.params.prepare import PrepareParams

# Left out of espeak-ng's variants: robots, whispers, croaks, and near copies of one voice.
VARIANTS = (
    *(
        "Alex",
        "Alicia",
        "Andrea",
        "Andy",
        "Annie",
        "Denis",
        "Diogo",
        "Gene",
        "Henrique",
        "Hugo",
    ),
    *(
        "Jacky",
        "Lee",
        "Marco",
        "Mario",
        "Michael",
        "Mike",
        "Nguyen",
        "Reed",
        "RicishayMax",
    ),
    *(
        "Storm",
        "adam",
        "anika",
        "announcer",
        "antonio",
        "aunty",
        "belinda",
        "benjamin",
        "boris",
    ),
    *(
        "caleb",
        "david",
        "ed",
        "edward",
        "f1",
        "f2",
        "f3",
        "f4",
        "f5",
        "grandma",
        "grandpa",
    ),
    *(
        "gustave",
        "ian",
        "iven",
        "john",
        "kaukovalta",
        "klatt2",
        "klatt4",
        "linda",
        "m1",
        "m2",
    ),
    *(
        "m3",
        "m4",
        "m5",
        "m6",
        "m7",
        "m8",
        "marcelo",
        "max",
        "michel",
        "miguel",
        "norbert",
    ),
    *(
        "pablo",
        "paul",
        "pedro",
        "quincy",
        "rob",
        "robert",
        "sandro",
        "shelby",
        "steph",
        "travis",
    ),
    *("victor", "zac"),
)
ACCENTS = (
    "en-us",
    "en",
    "en-gb-scotland",
    "en-gb-x-rp",
    "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
    "en-us-nyc",
    "en-029",
)
TEST_FRACTION = 0.25
WORDS_PER_MINUTE = (120, 165)
PITCHES = (35, 65)
START = "sentence"
REFERENCE_PATTERN = re.compile(r"\{([A-Za-z0-9_]+)\}")
MAX_DRAWS = 2000

Grammar = dict[str, list[str]]


def read_commands(params: PrepareParams, source: Path) -> Iterator[Recording]:
    """Yield generated commands; their audio is synthesised when it is decoded.

    Raises:
        CorpusError: espeak-ng is not installed, the grammar is missing or broken or has too few
            sentences, or more speakers are asked for than there are.
    """
    check_installed()
    grammar = load_grammar(source)
    settings = params.commands
    for split, count in (
        ("train", settings.num_train_speakers),
        ("test", settings.num_test_speakers),
    ):
        for voice in voices(split, count):
            speaker = f"{voice.variant}-{voice.accent}"
            sentences = draw_sentences(
                grammar,
                split,
                settings.sentences_per_speaker,
                f"{settings.seed}:{speaker}",
                source,
            )
            for index, sentence in enumerate(sentences):
                yield Recording(
                    utterance_id=f"{speaker}-{index:04d}",
                    source_path=f"espeak-ng {voice.name} {voice.words_per_minute} wpm "
                    f"pitch {voice.pitch} sentence {index}",
                    speaker=speaker,
                    text=sentence,
                    split=split,
                    audio=functools.partial(speak, voice, sentence),
                )


def voices(split: str, count: int) -> list[Voice]:
    """Return the first `count` speakers of the split `train` or `test`.

    Raises:
        CorpusError: there are fewer.
    """
    variants = [name for name in VARIANTS if _belongs(name, split)]
    variants.sort(key=lambda name: _fraction("order", name))
    available = len(variants) * len(ACCENTS)
    if count > available:
        raise CorpusError(
            f"corpus commands: {count} {split} speakers are required, there are {available}; "
            f"lower prepare.commands.num_{split}_speakers"
        )
    return [
        _voice(variants[index % len(variants)], index // len(variants)) for index in range(count)
    ]


def draw_sentences(grammar: Grammar, split: str, count: int, seed: str, source: Path) -> list[str]:
    """Return different sentences of a split, drawn from the grammar.

    Raises:
        CorpusError: the grammar has too few.
    """
    generator = random.Random(seed)
    drawn: dict[str, None] = {}
    for _ in range(MAX_DRAWS + count):
        if len(drawn) == count:
            break
        sentence = " ".join(_expand(grammar, START, generator).split())
        if _belongs(sentence, split):
            drawn[sentence] = None
    if len(drawn) < count:
        raise CorpusError(
            f"{source}: {len(drawn)} different {split} sentences were found, expected {count}; add "
            "alternatives to the grammar, or lower prepare.commands.sentences_per_speaker"
        )
    return list(drawn)


def load_grammar(path: Path) -> Grammar:
    """Read a grammar.

    Raises:
        CorpusError: the file is missing, is no mapping from names to lists of texts, lacks the rule
            `sentence`, refers to a rule that does not exist, or never ends.
    """
    if not path.is_file():
        raise CorpusError(
            f"{path}: no such grammar; set prepare.source to one such as "
            "examples/commands-grammar.yaml"
        )
    try:
        grammar = yaml.safe_load(read_text(path, CorpusError))
    except yaml.YAMLError as error:
        raise CorpusError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(grammar, dict) or START not in grammar:
        raise CorpusError(f"{path}: has no rule {START!r}, expected a mapping that starts there")
    for name, alternatives in grammar.items():
        _check_rule(path, grammar, name, alternatives)
    _check_depth(path, grammar, START, ())
    return grammar


def _check_rule(path: Path, grammar: Grammar, name: object, alternatives: object) -> None:
    if (
        not isinstance(alternatives, list)
        or not alternatives
        or not all(isinstance(text, str) for text in alternatives)
    ):
        raise CorpusError(
            f"{path}: rule {name!r} is {alternatives!r}, expected a list of texts (quote words "
            "that YAML reads as values, such as on and off)"
        )
    for alternative in alternatives:
        for reference in REFERENCE_PATTERN.findall(alternative):
            if reference not in grammar:
                raise CorpusError(
                    f"{path}: rule {name!r} refers to {reference!r}, which does not exist; "
                    f"there are {sorted(grammar)}"
                )


def _check_depth(path: Path, grammar: Grammar, name: str, above: tuple[str, ...]) -> None:
    if name in above:
        raise CorpusError(
            f"{path}: rule {name!r} leads back to itself ({' → '.join((*above, name))}); "
            "sentences must end"
        )
    for alternative in grammar[name]:
        for reference in REFERENCE_PATTERN.findall(alternative):
            _check_depth(path, grammar, reference, (*above, name))


def _expand(grammar: Grammar, name: str, generator: random.Random) -> str:
    alternative = generator.choice(grammar[name])
    return REFERENCE_PATTERN.sub(
        lambda match: _expand(grammar, match.group(1), generator), alternative
    )


def _voice(variant: str, round_: int) -> Voice:
    accent = (int(_fraction("accent", variant) * len(ACCENTS)) + round_) % len(ACCENTS)
    name = f"{variant}-{round_}"
    return Voice(
        accent=ACCENTS[accent],
        variant=variant,
        words_per_minute=_between(*WORDS_PER_MINUTE, _fraction("rate", name)),
        pitch=_between(*PITCHES, _fraction("pitch", name)),
    )


def _belongs(name: str, split: str) -> bool:
    return (_fraction("test", name) < TEST_FRACTION) == (split == "test")


def _between(low: int, high: int, fraction: float) -> int:
    return low + int((high - low + 1) * fraction)


def _fraction(salt: str, name: str) -> float:
    digest = hashlib.sha256(f"commands\0{salt}\0{name}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
