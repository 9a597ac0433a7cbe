"""Data sources: corpus name, as in params.yaml, to the function that reads it."""

from distillery.corpora.an4 import read_an4
from distillery.corpora.base import Reader
from distillery.corpora.commands import read_commands
from distillery.corpora.commonvoice import read_commonvoice
from distillery.corpora.fsdd import read_fsdd
from distillery.corpora.librispeech import read_librispeech
from distillery.corpora.manifest import read_manifest
from distillery.corpora.speechcommands import read_speechcommands

CORPORA: dict[str, Reader] = {
    "an4": read_an4,
    "commands": read_commands,
    "commonvoice": read_commonvoice,
    "fsdd": read_fsdd,
    "librispeech": read_librispeech,
    "manifest": read_manifest,
    "speechcommands": read_speechcommands,
}
