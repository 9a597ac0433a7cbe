"""The numbers that features are made with, whether PyTorch or NumPy computes them."""

from __future__ import annotations

LOG_FLOOR = 1e-6
"""Added to mel energies, so that silence has a logarithm."""
VARIANCE_FLOOR = 1e-2
"""Squared nats, added to a band's variance, so that silence is not blown up."""
PRIOR_FRAMES = 50
"""Frames that the prior of running normalisation counts as."""
PRIOR_VARIANCE = 4.0
"""Squared nats: what a band of log-mel features varies by in running speech, roughly."""
