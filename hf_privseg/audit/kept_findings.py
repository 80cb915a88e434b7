"""The findings of an audit in a file, line by line as they come, so that one that was stopped goes on."""

import base64
import hashlib
import io
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .findings import Finding
from .scene import Scene
from .trial import Trial

_FORMAT = "hf-privseg audit findings 1"


class KeptFindings:
    """A file of findings, one JSON object a line behind a first line that says of which audit.

    Every finding is on the disk before the next attack begins. A line that a kill has cut is left out, and its attack
    is run again. The pictures in the file are reconstructions of the owner's images, as those of the report are.

    Args:
        path: of the file, which is made where there is none, for its owner alone.
        scene: what is attacked; findings on another one are not taken.

    Raises:
        ValueError: the file holds something else, or findings on other images, another model or another prior.
    """

    def __init__(self, path: Path, scene: Scene) -> None:
        self._path, first = path, {"format": _FORMAT, "scene": _digest(scene)}
        self._findings: dict[tuple[object, ...], Finding] = {}
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        whole = [line for line in lines if line.endswith(b"\n")]
        if whole:
            try:
                rows = [json.loads(line) for line in whole]
                found = [_from_row(row) for row in rows[1:]]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"expected the findings of an audit in {path}, got something else; delete it"
                ) from error
            if rows[0] != first:
                raise ValueError(
                    f"{path} holds the findings of an audit of other images, another model or other prior images; "
                    "choose another output folder, or delete it"
                )
            self._findings = {_name(each): each for each in found}
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "r+b") as file:
            file.truncate(sum(map(len, whole)))
        if not whole:
            self._write(first)

    def __len__(self) -> int:
        return len(self._findings)

    def of(self, trial: Trial) -> Finding | None:
        """The finding of a trial that was run before; None where it was not."""
        attack = trial.attack
        return self._findings.get((attack.name, attack.attacker, trial.family, trial.num_images, trial.prior.name))

    def add(self, finding: Finding) -> None:
        """Keep a finding."""
        self._findings[_name(finding)] = finding
        self._write(_to_row(finding))

    def _write(self, row: dict[str, Any]) -> None:
        with self._path.open("ab") as file:
            file.write(json.dumps(row).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def _name(finding: Finding) -> tuple[object, ...]:
    return (finding.attack, finding.attacker, finding.family, finding.num_images, finding.prior)


def _to_row(finding: Finding) -> dict[str, Any]:
    row = finding.to_dict()
    del row["recovered"]  # which follows from the metrics
    if finding.picture is not None:
        content = io.BytesIO()
        Image.fromarray(finding.picture).save(content, "png")
        row["picture"] = base64.b64encode(content.getvalue()).decode()
    return row


def _from_row(row: dict[str, Any]) -> Finding:
    picture = row.pop("picture", None)
    if picture is not None:
        with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
            row["picture"] = np.array(image)
    return Finding(**row)


def _digest(scene: Scene) -> str:
    """SHA-256 of what the findings depend on: images, patch embeddings, priors, and how much is tried."""
    digest = hashlib.sha256()
    base = [] if scene.public_base is None else [scene.public_base]
    priors: Iterable[np.ndarray] = (grid for prior in scene.priors for grid in (prior.statistics.mean, *prior.grids))
    for array in (*scene.images, scene.embedding, *base, *priors):
        digest.update(repr((array.shape, str(array.dtype))).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    digest.update(repr((scene.patch_size, scene.num_scored, [prior.name for prior in scene.priors])).encode())
    return digest.hexdigest()
