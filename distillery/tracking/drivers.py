"""Drivers of stores, which extras bring: what is missing, and whose errors they raise."""

from __future__ import annotations

from collections.abc import Iterator

EXTRAS = {
    "asyncpg": "postgres",
    "boto3": "s3",
    "botocore": "s3",
    "dvc_s3": "s3",
    "psycopg2": "postgres",
    "s3fs": "s3",
}
"""By module: the extra of ours that brings it."""
OUR_CODE = {"distillery", "flows", "tasks"}
NOT_OSERROR = {"aiobotocore", "boto3", "botocore"}
"""Libraries whose errors derive from nothing that MLflow or Python knows."""


def missing_driver(error: BaseException) -> str | None:
    """Return what an error says is not installed, and how to install it; None of other errors.

    Looked for among its causes, too: libraries put errors of their own around it.
    """
    for cause in _causes(error):
        if isinstance(cause, ModuleNotFoundError) and cause.name is not None:
            module = cause.name.partition(".")[0]
            if module not in OUR_CODE:
                return f"the Python module {module} is not installed; {how_to_install(module)}"
    return None


def how_to_install(module: str) -> str:
    """Return what to do for a module that is not there."""
    if (extra := EXTRAS.get(module)) is not None:
        return f"make install brings it, elsewhere pip install 'distillery[{extra}]'"
    if module.startswith("dvc_"):
        return f".venv/bin/python -m uv pip install {module.replace('_', '-')} brings it"
    return f"install the package that brings {module}, which is no extra of ours"


def is_of_a_store(error: BaseException) -> bool:
    """Return whether an error is one of a store's library that is no OSError."""
    return any(base.__module__.partition(".")[0] in NOT_OSERROR for base in type(error).__mro__)


def in_a_line(error: BaseException) -> str:
    """Return an error's first line; its kind where it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in seen:
        yield following
        seen.append(following)
        following = following.__cause__  # not what was being handled: libraries try imports
