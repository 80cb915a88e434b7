"""Every attack at once, on one's own model and images: what does the provider recover, or somebody with more?

The owner runs it, because it takes the plain model and plain images to compare with. What leaks does not depend on
the key, so the audit draws keys of its own. The images are the victims; the attacker knows other images, the priors.
All figures are lower bounds (`summary.EXPLANATION`).
"""

import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from ..any_vit.model_facts import key_facts
from ..setr import keys
from ..setr.client_embedding import ClientEmbedding
from ..setr.encryption_key import EncryptionKey
from ..setr.image_inputs import PlainImage
from ..setr.model_encryption import PatchProjection
from ..setr.public_facts import EMBEDDING_FAMILY, KeyFacts, check_plain_model, key_families
from .advice import Deployment, advise
from .attack_table import ATTACKS, FAMILIES, trials_of
from .duration import estimate_in_words, expected_seconds
from .embeddings import public_source
from .findings import Finding, as_picture
from .kept_findings import KeptFindings
from .priors import priors_for
from .report import AuditReport
from .scene import Scene
from .subject import Subject
from .trial import Attack, Trial

Budget = Literal["quick", "full"]
COUNTS = {"quick": (1, 16), "full": (1, 4, 16, 64)}  # ciphertexts that an attacker has
NUM_SCORED = {"quick": 1, "full": 4}
_BAR = "{desc}: {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}{postfix}]"  # by expected seconds


def audit(
    model: PreTrainedModel,
    images: Sequence[PlainImage | Sequence[PlainImage]],
    *,
    processor: Any,
    families: Sequence[str] = FAMILIES,
    prior_images: Sequence[PlainImage | Sequence[PlainImage]] = (),
    public_base: np.ndarray | None = None,
    key_in_use: KeyFacts | None = None,
    deployment: Deployment | None = None,
    budget: Budget = "quick",
    extra_attacks: Sequence[Attack] = (),
    findings_file: Path | None = None,
    max_minutes: float | None = None,
    progress: bool = True,
) -> AuditReport:
    """A plain model and plain images -> what attackers recover from their ciphertexts, and advice.

    Args:
        model: plain, of any class that can be encrypted, in evaluation mode.
        images: the victims, as the processor takes them, all of one size after its resizing. Their number is the
            largest that an attacker collects. For a model of videos a victim is an image, which is repeated, or a
            list of frames.
        processor: the model's; images have its number of channels.
        families: the key families to try. On a family of your own (`register_cipher`) the attacks on any linear map
            are tried, and those on permutations where it acts on 8-bit pixels.
        prior_images: images of similar scenes that the attacker knows; never victims. The sample images of
            scikit-image and scikit-learn, and a formula that takes no image, are tried in any case.
        public_base: (L, hidden_size), the patch embedding of public weights near the model's: `load_embedding`. A
            model whose patch embedding is that of the checkpoint in this package is recognised without it.
        key_in_use: the public facts about the key of the encrypted model in use, whose fingerprint tells keys from
            small seeds.
        deployment: where the model will run. By default clients can hold a file and send 16-bit numbers, and the base
            is public if `public_base` is given. The base of a model that is recognised as public always is.
        budget: "full" tries more numbers of ciphertexts than "quick", scores more reconstructions and trains networks.
        extra_attacks: attacks of your own, tried beside those of this package; those that train are, too, with either
            budget.
        findings_file: where findings are kept as they come; an audit that was stopped goes on with the same file.
        max_minutes: no attack begins later than that; the report then says how many are left.
        progress: whether to show bars on stderr, and before them how long the attacks take (`expected_seconds`).

    Raises:
        EncryptionStateError: the model is encrypted.
        ValueError: no images, or of several sizes; a victim among the prior images; an unknown family or budget; a
            file with the findings of another audit.
    """
    check_plain_model(
        key_facts(model),
        advice="the audit encrypts it under keys of its own, so decrypt it first with decrypt_model(secret_key)",
    )
    if budget not in get_args(Budget):
        raise ValueError(f"expected a budget among {', '.join(get_args(Budget))}, got {budget!r}")
    subject = Subject.of(model, processor)
    secret_keys = fresh_keys(families, subject.projection)
    victims = _victims(images, subject)
    public = public_source(subject.embedding, public_base)
    scene = Scene(
        images=victims,
        patch_size=subject.projection.patch_size,
        embedding=subject.embedding,
        priors=priors_for(prior_images, victims, subject),
        counts=sorted({min(count, len(victims)) for count in COUNTS[budget]}),
        num_scored=NUM_SCORED[budget],
        segment=subject.segment,
        learn_embedding=subject.learn_embedding,
        public_base=public_base if public is None else public[1],
        key_in_use=key_in_use,
        progress=progress,
    )
    chosen = [attack for attack in ATTACKS if budget == "full" or not attack.trains]
    trials = list(trials_of(scene, secret_keys, attacks=[*chosen, *extra_attacks], training=True))
    kept = None if findings_file is None else KeptFindings(findings_file, scene)
    findings = _findings(trials, kept, max_minutes, progress=progress)
    deployment = deployment or Deployment(
        base_is_public=public_base is not None, client_holds_file=True, float_transport=True
    )
    if public is not None:
        deployment = replace(deployment, base_is_public=True)
    return AuditReport(
        subject=_facts(model, scene),
        findings=findings,
        advice=advise(deployment, findings, families=families),
        original=as_picture(scene.images[0]),
        public_source=None if public is None else public[0],
        num_left=len(trials) - len(findings),
    )


def fresh_keys(families: Iterable[str], projection: PatchProjection) -> dict[str, EncryptionKey]:
    """Names of families -> {family: a new key, or for `embedding` a client embedding of the plain projection}.

    Raises:
        ValueError: an unknown family; lists the known ones.
    """
    known = (*key_families(), EMBEDDING_FAMILY)
    unknown = sorted(set(families) - set(known))
    if unknown:
        raise ValueError(f"expected families among {', '.join(known)}, got {', '.join(unknown)}")

    def fresh(family: str) -> EncryptionKey:
        is_embedding = family == EMBEDDING_FAMILY
        return ClientEmbedding.from_projection(projection) if is_embedding else keys.SecretKey.generate(family)

    return {family: fresh(family) for family in families}


def _findings(
    trials: Sequence[Trial], kept: KeptFindings | None, max_minutes: float | None, *, progress: bool
) -> list[Finding]:
    """Every attack, run one after the other until the time is over; those of an earlier run are not run again."""
    found = [None if kept is None else kept.of(trial) for trial in trials]
    left = [trial for trial, finding in zip(trials, found, strict=True) if finding is None]
    seconds = dict(zip(map(id, left), expected_seconds(left), strict=True))
    if progress and left:
        tqdm.write(estimate_in_words(sum(seconds.values()), len(left)), file=sys.stderr)
    findings, end = [], time.monotonic() + 60 * (float("inf") if max_minutes is None else max_minutes)
    with tqdm(total=sum(seconds.values()), desc="audit", bar_format=_BAR, disable=not progress) as bar:
        for trial, finding in zip(trials, found, strict=True):
            bar.set_postfix_str(f"{trial.family}: {trial.attack.name}")
            if finding is None and time.monotonic() < end:
                finding = trial.find()
                if kept is not None:
                    kept.add(finding)
                bar.update(seconds[id(trial)])
            if finding is not None:
                findings.append(finding)
    return findings


def _victims(images: Sequence[PlainImage | Sequence[PlainImage]], subject: Subject) -> list[np.ndarray]:
    victims = [subject.pixels(image) for image in images]
    sizes = sorted({image.shape[1:] for image in victims})
    if len(sizes) != 1:
        raise ValueError(f"expected one or more images that the processor gives one size, got sizes {sizes}")
    return victims


def _facts(model: PreTrainedModel, scene: Scene) -> dict[str, str | int | float]:
    num_channels, height, width = scene.images[0].shape
    facts: dict[str, str | int | float] = {
        "model": model.config.name_or_path or type(model).__name__,
        "num_images": len(scene.images),
        "height": height,
        "width": width,
        "num_channels": num_channels,
        "patch_size": scene.patch_size,
    }
    if scene.public_base is not None:
        facts["drift_from_public_base"] = round(scene.drift, 4)
    return facts
