"""The lab of the augmentations, for what training does to features by itself."""

from tests.unit.augmentations.conftest import lab

__all__ = ["lab"]
