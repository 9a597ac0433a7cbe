"""Distillery: small speech recognisers that learn from large ones."""

import os

# ONNX Runtime 1.32 tells its makers about the machine, and looks at this when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
