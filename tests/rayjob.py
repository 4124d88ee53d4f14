"""What KubeRay takes of a RayJob, as far as ours uses it."""

from __future__ import annotations

from typing import Any


def anything(*names: str) -> dict[str, Any]:
    return {name: {} for name in names}


def shape(required: str = "", **properties: Any) -> dict[str, Any]:
    """An object with these fields and no others."""
    named = {"properties": properties, "required": required.split()}
    return {"type": "object", "additionalProperties": False, **named}


WHOLE, TEXTS = {"type": "integer", "minimum": 0}, {"type": "object", "additionalProperties": {"type": "string"}}
LIMITS = shape("requests limits", requests={"type": "object"}, limits={"type": "object", "required": ["cpu", "memory"]})
CONTAINER = shape(
    "name image resources env", resources=LIMITS, **anything("name", "image", "env", "securityContext", "volumeMounts")
)
POD = shape(
    "containers volumes",
    containers={"type": "array", "items": CONTAINER, "minItems": 1},
    volumes={"type": "array", "items": {"type": "object", "required": ["name"]}},
    securityContext={"type": "object"},
    terminationGracePeriodSeconds=WHOLE,
    automountServiceAccountToken={"type": "boolean"},
    tolerations={"type": "array"},
)
TEMPLATE = shape("spec", spec=POD)
HEAD = shape("rayStartParams template", serviceType={"enum": ["ClusterIP"]}, rayStartParams=TEXTS, template=TEMPLATE)
COUNTS = dict.fromkeys(("replicas", "minReplicas", "maxReplicas"), WHOLE)
WORKERS = shape(
    "groupName template minReplicas maxReplicas",
    **anything("groupName"),
    **COUNTS,
    rayStartParams=TEXTS,
    template=TEMPLATE,
)
CLUSTER = shape(
    "rayVersion authOptions headGroupSpec workerGroupSpecs",
    rayVersion={"type": "string"},
    authOptions=shape("mode", mode={"enum": ["token", "disabled"]}, secretName={"type": "string"}),
    enableInTreeAutoscaling={"type": "boolean"},
    autoscalerOptions=shape("", idleTimeoutSeconds=WHOLE, resources=LIMITS),
    headGroupSpec=HEAD,
    workerGroupSpecs={"type": "array", "items": WORKERS},
)
# The fields that are used of KubeRay's `ray.io/v1` RayJob, by their names and types in its API reference.
RAYJOB = shape(
    "apiVersion kind metadata spec",
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=shape("name", name={"type": "string"}),
    spec=shape(
        "entrypoint rayClusterSpec",
        entrypoint={"type": "string"},
        backoffLimit=WHOLE,
        activeDeadlineSeconds={"type": "integer", "minimum": 1},
        shutdownAfterJobFinishes={"type": "boolean"},
        ttlSecondsAfterFinished=WHOLE,
        rayClusterSpec=CLUSTER,
    ),
)
