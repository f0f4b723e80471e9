"""Where in a cluster the manifests put things: the namespace, and the volume that keeps the weights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hardware_profiles.errors import UserError
from planners.export.server import Server

NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
"""RFC 1123 label, as Kubernetes asks for."""
CLAIM = re.compile(rf"(?=.{{1,253}}\Z){NAMESPACE.pattern}(\.{NAMESPACE.pattern})*")
"""RFC 1123 subdomain."""
HUB = "hub"
"""Folder of weights in Hugging Face's cache, which is what a claim holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What the user's cluster has. Raises UserError for names that Kubernetes refuses."""

    namespace: str | None = None
    """None: that of kubectl's context."""
    volume_claim: str | None = None
    """Name of a PersistentVolumeClaim for the weights; None: each pod downloads them."""

    def __post_init__(self) -> None:
        for flag, name, wanted in (
            ("--namespace", self.namespace, NAMESPACE),
            ("--volume-claim", self.volume_claim, CLAIM),
        ):
            if name is not None and not wanted.fullmatch(name):
                raise UserError(
                    f"{flag} is {name!r}; Kubernetes takes names of a-z, 0-9 and -, such as {flag[2:].split('-')[-1]}-1"
                )


def placed(documents: Sequence[Mapping[str, Any]], place: Place) -> list[Mapping[str, Any]]:
    """The same objects, or values of llm-d's chart, in their place."""
    return [_values(document, place) if "kind" not in document else _object(document, place) for document in documents]


def _object(document: Mapping[str, Any], place: Place) -> Mapping[str, Any]:
    found = dict(document)
    if place.namespace is not None:
        name = document["metadata"]["name"]
        found["metadata"] = {"name": name, "namespace": place.namespace} | document["metadata"]
    return _with_claim(found, place.volume_claim) if place.volume_claim is not None else found


def _with_claim(value: Any, claim: str) -> Any:
    """The volume of downloads replaced, wherever a pod has it."""
    if isinstance(value, Mapping):
        if value.get("name") == "cache" and "emptyDir" in value:
            return {"name": "cache", "persistentVolumeClaim": {"claimName": claim}}
        return {name: _with_claim(part, claim) for name, part in value.items()}
    return [_with_claim(part, claim) for part in value] if isinstance(value, list) else value


def _values(document: Mapping[str, Any], place: Place) -> Mapping[str, Any]:
    """llm-d's chart mounts a claim to read, with the cache in the folder that its address names."""
    artifacts = document["modelArtifacts"]
    if place.volume_claim is None or not _on_the_hub(artifacts["name"]):
        return document
    uri = f"pvc+hf://{place.volume_claim}/{HUB}/{artifacts['name']}"
    return {**document, "modelArtifacts": {**artifacts, "uri": uri}}


def _on_the_hub(model: str) -> bool:
    return model.count("/") == 1 and not model.startswith((".", "/"))


def place_notes(place: Place, servers: Iterable[Server], names: Iterable[str]) -> list[str]:
    """What has to be there before the manifests are applied; ``names``: of the files."""
    files, notes = list(names), []
    manifests = [name for name in files if name.startswith(("kubernetes-", "kserve", "llm-d"))]
    if not manifests:
        given = {"--namespace": place.namespace, "--volume-claim": place.volume_claim}
        return [
            f"{flag} {name} is in no file: there is no manifest." for flag, name in given.items() if name is not None
        ]
    where = "" if place.namespace is None else f" in the namespace {place.namespace}"
    if place.namespace is not None:
        helm = " (helm: --namespace)" if "llm-d-values.yaml" in files else ""
        notes.append(f"The namespace {place.namespace} has to exist: kubectl create namespace {place.namespace}{helm}.")
    if place.volume_claim is not None:
        weights = {server.model: server.weight_bytes for server in servers}
        room = f"{sum(weights.values()) / 1e9:.0f} GB of weights"
        notes.append(
            f"The claim {place.volume_claim} has to exist{where}, with room for {room}, ReadWriteMany where pods are on "
            "several nodes: it is Hugging Face's cache, and the first pod to start fills it."
        )
        if "llm-d-values.yaml" in files:
            notes.append("llm-d's chart only reads the claim: download the weights into its folder hub first.")
        if "kserve.yaml" in files:
            notes.append(
                "kserve.yaml leaves the claim out: KServe downloads for each pod, or reads spec.model.uri pvc://..."
            )
    return notes
