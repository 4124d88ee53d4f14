"""Has Ray drain a spot machine that AWS is about to take back: its trials save at once and go on elsewhere.

    python jobs/spot.py        with `ray` on the PATH; options are passed on to `ray drain-node`

Runs beside Ray on each worker of cluster.yaml, which gets this file alone. It asks the machine's own metadata service,
which knows some two minutes ahead, and ends once Ray has taken the notice.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

SERVICE = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://169.254.169.254")  # as for AWS's own tools
LOOK_EVERY = 5.0  # seconds, as AWS advises


def asked(path: str, method: str, **headers: str) -> str:
    request = Request(f"{SERVICE}/latest/{path}", method=method)
    for name, value in headers.items():
        request.add_header(f"X-aws-ec2-metadata-{name.replace('_', '-')}", value)
    with build_opener(ProxyHandler({})).open(request, timeout=2) as answer:  # it answers its own machine alone
        return str(answer.read().decode())


def notice() -> tuple[str, datetime] | None:
    """What will be done to this machine, and when; None where nothing will."""
    token = asked("api/token", "PUT", token_ttl_seconds="60")
    try:
        said = json.loads(asked("meta-data/spot/instance-action", "GET", token=token))
    except HTTPError as error:
        if error.code == 404:
            return None
        raise
    return said["action"], datetime.fromisoformat(said["time"])


def drained(action: str, when: datetime, options: Sequence[str]) -> bool:
    """Whether Ray has taken the notice."""
    left = max(0, int((when - datetime.now(UTC)).total_seconds()))
    words = ["--reason=DRAIN_NODE_REASON_PREEMPTION", f"--reason-message=spot machine: {action} at {when}"]
    command = ["ray", "drain-node", *words, f"--deadline-remaining-seconds={left}", *options]
    return subprocess.run(command, check=False).returncode == 0


def main(options: Sequence[str]) -> None:
    fault = ""
    while True:
        try:
            if (found := notice()) and drained(*found, options):
                return
        except (OSError, HTTPException, ValueError, LookupError) as error:  # the next look may say more
            if repr(error) != fault:
                print(fault := repr(error), flush=True)
        time.sleep(LOOK_EVERY)


if __name__ == "__main__":
    main(sys.argv[1:])
