"""Ray's token: shown to the clusters that ask for one, and to no other."""

from __future__ import annotations

import os

from ray._private.authentication.authentication_token_setup import AUTH_MODE_ENV_VAR
from ray._raylet import AuthenticationTokenLoader, Config, GcsClient  # type: ignore[attr-defined]
from ray.exceptions import AuthenticationError, RpcError

from cxrtl.errors import PlanError, last_line

_BRING = "put the cluster's token into ~/.ray/auth_token (mode 0600) or RAY_AUTH_TOKEN, and export RAY_AUTH_MODE=token"


def match(address: str) -> None:
    """Let this process use Ray's token as the cluster at `address`, host:port, does: `ray.init` takes one that is there
    for a cluster that it finds by itself alone. A process that asks for a token, joined to a cluster that has none,
    would wait for ever: the cluster's workers could not call it.

    Raises:
        PlanError: RAY_AUTH_MODE says otherwise than the cluster, it asks for a token that is not here, or none answers.
    """
    said, asks = os.environ.get(AUTH_MODE_ENV_VAR, "").lower(), _refuses(address, "disabled")
    if not asks and said == "token":
        raise PlanError(
            f"RAY_AUTH_MODE=token, and the cluster at {address!r} asks for no token: start it with RAY_AUTH_MODE=token "
            "on every machine (`ray get-auth-token --generate` makes one), or take the variable away here, if nobody "
            "else reaches the cluster."
        )
    if not asks:
        return
    if said not in ("", "token"):
        raise PlanError(f"the cluster at {address!r} asks for a token, and RAY_AUTH_MODE={said}: {_BRING}.")
    if not AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True):
        raise PlanError(f"the cluster at {address!r} asks for a token, and there is none here: {_BRING}.")
    if _refuses(address, "token"):
        raise PlanError(f"the cluster at {address!r} refuses the token that is here: {_BRING}.")
    _use("token")


def _refuses(address: str, mode: str) -> bool:
    """Whether the cluster turns away who comes with a token, or without one."""
    before = os.environ.get(AUTH_MODE_ENV_VAR)
    _use(mode)
    try:
        GcsClient(address=address)
    except AuthenticationError:
        return True
    except RpcError as error:
        raise PlanError(f"no Ray cluster answers at {address!r}: {last_line(str(error))}") from None
    finally:
        _use(before)
    return False


def _use(mode: str | None) -> None:
    if mode is None:
        os.environ.pop(AUTH_MODE_ENV_VAR, None)
    else:
        os.environ[AUTH_MODE_ENV_VAR] = mode
    Config.initialize("")  # Ray's own copy of the environment
