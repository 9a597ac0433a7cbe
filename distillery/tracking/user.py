"""Who does something: the user whom MLflow's server knows, or the one who is logged in here.

Without authentication a server believes any name, so the one of this machine's login stands in
records, as USER@HOST. A server that asks for a password knows better.
"""

from __future__ import annotations

import getpass
import importlib
import socket
from typing import Any

CURRENT_USER = "/api/2.0/mlflow/users/current"
"""Of MLflow's own authentication; a server without, or an old one, has no such page."""
MISSING, REFUSED = 404, 401


def person(uri: str) -> str:
    """Return who this is: the server's user, or USER@HOST where it knows none.

    Args:
        uri: where MLflow is.

    Raises:
        MlflowException: it is a server, and does not answer.
    """
    return _server_user(uri) or login()


def login() -> str:
    """Return who is logged in on this machine, as USER@HOST."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def _server_user(uri: str) -> str | None:
    """Return by what name a server let us in; None where it asks for none, or for a token alone."""
    if not uri.startswith(("http://", "https://")):
        return None
    # MLflow's own way to ask, with its certificates, tokens and time-outs; it has no types.
    credentials: Any = importlib.import_module("mlflow.utils.credentials")
    rest: Any = importlib.import_module("mlflow.utils.rest_utils")

    def ask(who: object) -> Any:
        return rest.http_request(who, CURRENT_USER, "GET", raise_on_status=False)

    ours = credentials.get_default_host_creds(uri)
    answer = ask(ours)
    if answer.ok:
        try:
            return str(answer.json()["user"]["username"])
        except (ValueError, KeyError, TypeError):  # a page of something else
            return None
    if answer.status_code != MISSING or not ours.username:
        return None
    # A proxy with passwords of its own, or an older MLflow: does it ask strangers, too?
    stranger = rest.MlflowHostCreds(
        host=uri,
        ignore_tls_verification=ours.ignore_tls_verification,
        client_cert_path=ours.client_cert_path,
        server_cert_path=ours.server_cert_path,
    )
    return str(ours.username) if ask(stranger).status_code == REFUSED else None
