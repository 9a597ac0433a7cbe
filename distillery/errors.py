"""Every error that Distillery raises on purpose.

    DistilleryError
    ├── ParamsError        params.yaml: unknown keys, wrong types, values out of range
    ├── CorpusError        a corpus is missing, incomplete or contradicts itself
    │   └── AudioError     one recording cannot be read, is empty or holds nonsense
    │       └── EmptyAudio one recording holds no samples
    ├── ManifestError      prepared data or a user's manifest breaks its contract
    ├── TranscriptsError   a file of transcripts is another's, or cannot be written
    ├── ModelError         a saved model is incomplete, or does not fit its configuration
    ├── CacheError         the teacher-output cache is damaged
    │   └── CacheMismatch  the cache was made by another teacher, or lacks utterances
    ├── StageError         a stage failed, or left something behind that DVC does not confirm
    │   └── BusyError      another run owns this workspace
    └── TrackingError      MLflow or its registry cannot be reached, or refuses
        └── AliasConflict  somebody else moved the champion at the same time

A message names the item, what was found, what was expected and what to do, in that order.
"""


class DistilleryError(Exception):
    """Base of every error that Distillery raises on purpose."""


class ParamsError(DistilleryError):
    """params.yaml cannot be used; the message lists every key that is wrong."""


class CorpusError(DistilleryError):
    """A corpus is missing, incomplete or contradicts itself."""


class AudioError(CorpusError):
    """One recording cannot be read, is empty or holds nonsense."""


class EmptyAudio(AudioError):
    """One recording holds no samples."""


class ManifestError(DistilleryError):
    """Prepared data or a user's manifest breaks its contract."""


class TranscriptsError(DistilleryError):
    """A file of transcripts is another's, or cannot be written."""


class ModelError(DistilleryError):
    """A saved model is incomplete, or does not fit its configuration."""


class CacheError(DistilleryError):
    """The teacher-output cache is damaged."""


class CacheMismatch(CacheError):
    """The cache was made by another teacher, or lacks utterances."""


class StageError(DistilleryError):
    """A stage failed, or left something behind that DVC does not confirm."""


class BusyError(StageError):
    """Another run owns this workspace."""


class TrackingError(DistilleryError):
    """MLflow or its registry cannot be reached, or refuses."""


class AliasConflict(TrackingError):
    """Somebody else moved the champion at the same time."""
