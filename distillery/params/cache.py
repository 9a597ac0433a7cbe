"""The section `cache`: what is kept of the teacher's outputs, and how the teacher runs."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Final, Literal

from pydantic import Discriminator, Field, Tag

from distillery.params.base import (
    Device,
    NonNegativeInt,
    PositiveFloat,
    PositiveFraction,
    PositiveInt,
    Section,
    SpeedFactors,
)

AUTO: Final = "auto"
"""`hidden_layers` that students' objectives decide."""


def _kind_of_layers(value: object) -> str:
    """Return what tells names of layers from `auto`."""
    return AUTO if isinstance(value, str) else "names"


class SparseParams(Section):
    """How many tokens a frame of the payload `sparse` keeps."""

    top_k: Annotated[int, Field(ge=1, le=255)] = 16
    """Most tokens of one frame."""
    top_p: PositiveFraction = 0.999
    """Fewer are kept where they hold this share of the mass."""
    near_frames: NonNegativeInt = 1
    """So close to a non-blank frame, `top_k` are kept whatever they hold."""
    temperatures: tuple[PositiveFloat, ...] = (2.0, 4.0)
    """Other temperatures than 1 to keep probabilities exact at; each costs 2 bytes a frame."""


class PayloadParams(Section):
    """What the cache keeps of the teacher's outputs; each change means another namespace."""

    log_probs: Literal["auto", "u8", "f16", "f32", "sparse", "none"] = "auto"
    """Layout of the token distributions; auto takes u8 up to 256 tokens, sparse above, none where
    the teacher has none in the students' tokens; none saves most bytes and teaches no frames."""
    sparse: SparseParams = SparseParams()
    """Settings of the layout `sparse`."""
    hidden_layers: Annotated[
        Annotated[Literal["auto"], Tag(AUTO)] | Annotated[tuple[str, ...], Tag("names")],
        Discriminator(_kind_of_layers),
    ] = AUTO
    """Hidden layers kept in half precision. auto keeps those that the objectives of the students
    name, none if none does, and goes on with what is cached already where that holds them. Names
    keep these whatever is learnt from, for who compares objectives: a layer that lacks costs
    another teacher pass. models/teacher/fingerprint.json lists them; `last` is the one that the
    output layer reads."""
    num_hypotheses: PositiveInt = 1
    """Decodings kept with their scores; 1 is the best path, more ask for a beam search."""
    beam_size: PositiveInt = 20
    """Beams of the search when num_hypotheses is above 1; more find better ones and take longer."""

    @property
    def named_layers(self) -> tuple[str, ...]:
        """The layers that are named; none with `auto`, which `settled` puts names in place of."""
        return () if isinstance(self.hidden_layers, str) else self.hidden_layers


class CacheParams(Section):
    """Settings of the stage `cache`."""

    payload: PayloadParams = PayloadParams()
    """What is kept."""
    speed_factors: SpeedFactors = ()
    """Copies of the training audio played at these speeds have teacher outputs of their own, and
    every student and its control train on them, too; each adds one copy's cost to both."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the teacher's forward pass; bf16 and fp16 are faster on recent hardware."""
    batch_seconds: PositiveFloat = 60.0
    """Audio in one teacher batch, padding included, in seconds; larger needs more memory."""
    shard_seconds: PositiveFloat = 3600.0
    """Audio covered by one shard, in seconds; a kill loses at most the open one."""
    shard_minutes: PositiveFloat = 2.0
    """A shard is closed after so many minutes, too: what a kill costs of a slow teacher's work."""
    workers: NonNegativeInt | Annotated[str, Field(pattern=r"^(tcp|tls)://.+:\d+$")] = 0
    """Who runs the teacher: 0 this process, N local processes, a GPU each where there are GPUs,
    tcp://HOST:PORT a Dask cluster, whose hosts share the workspace's disk under one path. Dask runs
    what it is sent: use tls:// outside a network that you trust."""
    num_threads: PositiveInt = 1
    """CPU threads of each worker, fixed because the last bits of the outputs depend on it; small
    teachers are fastest with 1 and several workers."""
    device: Device = "auto"
    """Where the teacher runs; auto takes a GPU if there is one, and one after the other for local
    workers; cuda:1 takes the second of several, for all of them."""
    audit_utterances: NonNegativeInt = 4
    """Utterances on which the stage, at its end, compares the teacher with the cache; 0: none."""

    def keeping(self, layers: Collection[str]) -> CacheParams:
        """Return the same settings with these hidden layers, each once, by name."""
        payload = self.payload.model_copy(update={"hidden_layers": tuple(sorted(set(layers)))})
        return self.model_copy(update={"payload": payload})
