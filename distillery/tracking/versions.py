"""The model registry: one version per distinct student.

A version is known by the md5 of the student's folder in DVC: the same bytes never become a second
version. Who is champion stands in aliases.py.
"""

from __future__ import annotations

import importlib.metadata
import logging
import tempfile
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import distillery
from distillery.errors import ModelError, TrackingError
from distillery.params.register import ServeLimits
from distillery.serve.served import Served
from distillery.tracking.bundle import check_bundle, write_bundle
from distillery.tracking.names import STUDENT, model_label
from distillery.tracking.store import Tracking, file_lock
from distillery.tracking.trained_on import TRAINED_ON_FILE

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

REGISTRY_LOCK = "scratch/registry.lock"
PACKAGE = Path(distillery.__file__).parent
SERVING_MODEL = Path(__file__).with_name("serving_model.py")
SQLITE = "sqlite:///"
ROLE_TAG = "role"
"""Of a version: student or control; those of before have none, and are students."""
CHAMPION, PREVIOUS, CHALLENGER = "champion", "previous", "challenger"
MD5_TAG = "dvc.md5"
REGISTERED_BY_TAG = "registered.by"
"""Of a version: who registered it, the server's user or USER@HOST."""
BUNDLE_TAG = "bundle.sha256"
LIMITS_CONFIG = "limits"  # in a version's configuration: what a request may hold
FORMAT_TAG, SERVED_TAG = "serve.format", "serve.sha256"
TEST_TAG = "test.sha256"
WER_TAG = "test.wer"
SPELLING_TAG = "spelling"
"""By which rule its numbers and letter strings are words, as JSON; those of before have none."""
# What a process needs to load a registered model; the library itself travels with it.
RUNTIME_PACKAGES = (
    "mlflow",
    "numpy",
    "onnxruntime",
    "pandas",
    "pyarrow",
    "pydantic",
    "pyyaml",
    "safetensors",
    "scipy",
    "soundfile",
    "soxr",
    "torch",
    "torchaudio",
    "tqdm",
)


@dataclass(frozen=True)
class Candidate:
    """A student, or the control of one, that may become a version."""

    name: str
    """In params.yaml; a control has its student's."""
    seed: int
    """The one of its seeds that is the best on the validation split."""
    folder: Path
    """Where it was saved."""
    md5: str
    """DVC's hash of that folder."""
    run: str
    """Id of its run in MLflow."""
    description: str
    """Of the version, in Markdown."""
    tags: Mapping[str, str]
    """Lineage that the version bears."""
    test_digest: str
    """Tells the test split from others."""
    test_wer: float
    """On the test split, as a fraction."""
    valid_wer: float
    """On the validation split, as a fraction."""
    num_parameters: int
    """Numbers that were trained."""
    served: Served = Served()  # noqa: RUF009 (frozen)
    """The format in which it is served."""
    trained_on: bytes | None = None
    """Which audio it learnt from, as trained_on.py packs it; None: not known."""
    role: str = STUDENT
    """student or control."""

    @property
    def label(self) -> str:
        """What sentences call it."""
        return model_label(self.role, self.name)


def is_local(tracking: Tracking) -> bool:
    """Return whether the registry is a file, which all who use it can lock."""
    return tracking.uri.startswith(SQLITE)


def registry_lock(tracking: Tracking) -> AbstractContextManager[None]:
    """Return a lock on the registry: beside a local database, for all who use it.

    For a server it keeps only this workspace's processes apart.
    """
    if is_local(tracking):
        database = Path(tracking.uri.removeprefix(SQLITE).partition("?")[0])
        return file_lock(database.with_name(f"{database.name}.lock"))
    return file_lock(tracking.root / REGISTRY_LOCK)


def register_version(
    tracking: Tracking,
    model_name: str,
    candidate: Candidate,
    limits: ServeLimits = ServeLimits(),  # noqa: B008 (frozen)
) -> str:
    """Return the version that holds a student, created if no version holds these bytes yet."""
    with registry_lock(tracking):
        _ensure_model(tracking, model_name)
        version = find_version(tracking, model_name, candidate.md5, candidate.served.digest)
        created = version is None
        if version is None:
            version = _create_version(tracking, model_name, candidate, limits)
    number = str(version.version)
    for name, value in {
        "registered.version": number,
        "registered.model": model_name,
        "registered.reused": str(not created).lower(),
    }.items():
        tracking.client.set_tag(candidate.run, name, value)
    return number


def find_version(
    tracking: Tracking, model_name: str, md5: str, served_digest: str = ""
) -> ModelVersion | None:
    """Return the oldest version made from a DVC output, or None.

    Args:
        tracking: the connection.
        model_name: the registered model.
        md5: of the output.
        served_digest: of the files in which it is served; empty where PyTorch serves it.
    """
    found = tracking.client.search_model_versions(
        f"name = '{model_name}' and tags.`{MD5_TAG}` = '{md5}'"
    )
    ready = [
        version
        for version in found
        if version.status == "READY" and version.tags.get(SERVED_TAG, "") == served_digest
    ]
    return min(ready, key=lambda version: int(version.version), default=None)


def versions(tracking: Tracking, model_name: str) -> list[ModelVersion]:
    """Return all versions that are usable, the newest first; none where there is no such model."""
    found = tracking.client.search_model_versions(f"name = '{model_name}'")
    ready = [version for version in found if version.status == "READY"]
    return sorted(ready, key=lambda version: int(version.version), reverse=True)


def stored_aliases(tracking: Tracking, model_name: str) -> dict[str, str]:
    """Return the versions that a model's aliases name; none where there is no such model."""
    from mlflow.exceptions import MlflowException

    try:
        found = tracking.client.get_registered_model(model_name).aliases
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return {}
        raise
    return {alias: str(version) for alias, version in found.items()}


def version_exists(tracking: Tracking, model_name: str, version: str) -> bool:
    """Return whether a version is there and usable."""
    from mlflow.exceptions import MlflowException

    try:
        return bool(tracking.client.get_model_version(model_name, version).status == "READY")
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return False
        raise


def best_candidate(candidates: list[Candidate]) -> Candidate:
    """Return the model of the lowest validation WER; of equals, the smaller one."""
    return min(candidates, key=lambda item: (item.valid_wer, item.num_parameters, item.name))


def _ensure_model(tracking: Tracking, model_name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        tracking.client.create_registered_model(
            model_name, description="Speech recognisers distilled from a teacher."
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _create_version(
    tracking: Tracking, model_name: str, candidate: Candidate, limits: ServeLimits
) -> ModelVersion:
    import mlflow

    # It warns that the environment holds no pip, which a model of ours does not need.
    logging.getLogger("mlflow.utils.environment").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as temporary:
        bundle = Path(temporary) / "model"
        more = dict(candidate.served.contents)
        if candidate.trained_on is not None:
            more[TRAINED_ON_FILE] = candidate.trained_on
        digest = write_bundle(candidate.folder, bundle, more)
        with mlflow.start_run(run_id=candidate.run):
            info = mlflow.pyfunc.log_model(
                name=f"{'' if candidate.role == STUDENT else 'control-'}{candidate.name}",
                python_model=str(SERVING_MODEL),
                artifacts={"model": str(bundle)},
                model_config={LIMITS_CONFIG: limits.model_dump()},
                code_paths=[str(PACKAGE)],
                pip_requirements=requirements(),
            )
    tags = {
        **candidate.tags,
        MD5_TAG: candidate.md5,
        BUNDLE_TAG: digest,
        FORMAT_TAG: candidate.served.format,
        "serve.reason": candidate.served.reason,
        SERVED_TAG: candidate.served.digest,
        TEST_TAG: candidate.test_digest,
        WER_TAG: repr(candidate.test_wer),
        "valid.wer": repr(candidate.valid_wer),
        "student": candidate.name,
        ROLE_TAG: candidate.role,
        "seed": str(candidate.seed),
        REGISTERED_BY_TAG: tracking.person,
    }
    return tracking.client.create_model_version(
        model_name,
        info.model_uri,
        candidate.run,
        tags=tags,
        description=candidate.description,
        model_id=info.model_id,
    )


def package_bundle(bundle: Path, target: Path, limits: ServeLimits) -> None:
    """Make a model that MLflow can serve from a registered bundle's files and the code here.

    The registered model has code of its own, of which nothing is taken: whoever may write into the
    registry could have put anything there.

    Args:
        bundle: checked files.
        target: a folder that does not exist.
        limits: how much a request may hold.
    """
    import mlflow

    logging.getLogger("mlflow.utils.environment").setLevel(logging.ERROR)
    mlflow.pyfunc.save_model(
        str(target),
        python_model=str(SERVING_MODEL),
        artifacts={"model": str(bundle)},
        model_config={LIMITS_CONFIG: limits.model_dump()},
        pip_requirements=requirements(),
    )


def requirements() -> list[str]:
    """Return the packages that a registered model needs, at the versions installed here."""
    return [f"{name}=={importlib.metadata.version(name)}" for name in RUNTIME_PACKAGES]


def uri_of(model_name: str, version: str | None) -> str:
    """Return the URI of a version: of a number, an alias, a URI or, for None, of the champion."""
    if version is not None and version.startswith("models:/"):
        return version
    wanted = version or CHAMPION
    return f"models:/{model_name}{'/' if wanted.isdecimal() else '@'}{wanted}"


def version_of(tracking: Tracking, model_uri: str) -> ModelVersion:
    """Return the registered version that a URI stands for now.

    Args:
        tracking: the connection.
        model_uri: `models:/NAME@ALIAS` or `models:/NAME/VERSION`.

    Raises:
        TrackingError: there is no such model, version or alias.
    """
    from mlflow.exceptions import MlflowException

    name, separator, alias = model_uri.removeprefix("models:/").partition("@")
    number = ""
    if not separator:
        name, _, number = name.partition("/")
    try:
        if separator:
            return tracking.client.get_model_version_by_alias(name, alias)
        return tracking.client.get_model_version(name, number)
    except MlflowException as error:
        raise TrackingError(
            f"{model_uri}: not in the registry ({error.message}); run make run, see "
            "make champion, or look with make ui which models there are"
        ) from error


def version_folder(
    tracking: Tracking, model_uri: str, copy: Path | None = None
) -> tuple[Path, str | None]:
    """Return where a registered model's bundle lies, fetched if it is remote, and its digest.

    Args:
        tracking: the connection.
        model_uri: `models:/NAME@ALIAS` or `models:/NAME/VERSION`.
        copy: a folder that shall hold a copy of the whole model; None takes what lies here already.

    Raises:
        TrackingError: there is no such model, version or alias.
    """
    import mlflow

    version = version_of(tracking, model_uri)
    with tracking.explained():
        folder = mlflow.artifacts.download_artifacts(
            f"models:/{version.name}/{version.version}",
            dst_path=None if copy is None else str(copy),
            tracking_uri=tracking.uri,
        )
    return Path(folder) / "artifacts" / "model", version.tags.get(BUNDLE_TAG)


def checked_folder(tracking: Tracking, model_uri: str, copy: Path | None = None) -> Path:
    """Return where a registered model's bundle lies, once its files are what was registered.

    Args:
        tracking: the connection.
        model_uri: as for `version_folder`.
        copy: as for `version_folder`.

    Raises:
        TrackingError: there is no such model, version or alias, or it has no digest.
        ModelError: its files are gone or damaged.
    """
    folder, digest = version_folder(tracking, model_uri, copy)
    if digest is None:
        raise TrackingError(
            f"{model_uri}: bears no tag {BUNDLE_TAG}, expected a version that make register made; "
            "its files cannot be checked"
        )
    if not folder.is_dir():
        raise ModelError(f"{model_uri}: its files are gone ({folder}); register the model again")
    check_bundle(folder, digest)
    return folder
