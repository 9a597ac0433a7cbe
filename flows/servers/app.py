"""What `make serve` runs: recordings by MLflow's scoring server, and speech while it is spoken.

uvicorn --factory flows.servers.app:create_app
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from flows.servers.scoring import App, Doorkeeper, Receive, Scope, Send
from flows.servers.streaming import Streams

MODEL_VARIABLE = "DISTILLERY_SERVED_MODEL"
"""Environment variable: the folder of MLflow's model."""


def create_app() -> App:
    """Return the server of the model that the environment names; it is loaded once."""
    from mlflow.pyfunc import scoring_server

    load: Callable[[str], Any] = scoring_server.load_model_with_mlflow_config
    model = load(os.environ[MODEL_VARIABLE])
    speech = model.unwrap_python_model()
    recordings = Doorkeeper(scoring_server.init(model), speech.limits.max_bytes)
    streams = Streams(speech.recogniser, speech.limits)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        handler = streams if scope["type"] == "websocket" else recordings
        await handler(scope, receive, send)

    return app
