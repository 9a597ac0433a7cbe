"""The section `package`: what a model card says that nobody can read off a model."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from distillery.params.base import NonEmptyText, Section


class CardParams(Section):
    """Settings of `make package`; what is not said here stands on the card as a question."""

    title: NonEmptyText | None = None
    """What the model is called on its card; null: the registered model's name."""
    author: NonEmptyText | None = None
    """Who trained it."""
    contact: NonEmptyText | None = None
    """Where questions go, such as an address or a page."""
    license: NonEmptyText | None = None
    """Of the model: an identifier such as apache-2.0 or cc-by-4.0, or a sentence."""
    data_license: NonEmptyText | None = None
    """Of the recordings and transcripts that it learnt from, and whose they are."""
    teacher_license: NonEmptyText | None = None
    """Of the teacher whose outputs it learnt from."""
    language: Annotated[str, Field(pattern="^[a-z]{2,3}$")] | None = None
    """What it understands, as an ISO 639-1 code; null: prepare.language of the run that made it."""
    intended_use: NonEmptyText | None = None
    """What it is for."""
    limits: NonEmptyText | None = None
    """What it should not be used for, beside what the card says by itself."""
    name_speakers: bool = False
    """Whether the card names test speakers as the data do; else they are numbered, for names of
    people have no place on a page that is handed on."""
