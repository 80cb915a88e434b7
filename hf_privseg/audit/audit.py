"""Every attack at once, on one's own model and images: what does the provider recover, or somebody with more?

The owner runs it, for it takes the plain model and plain images to compare with. What leaks does not depend on the
key, so keys are drawn afresh. The images are the victims; the attacker knows other photographs, the priors. All
figures are lower bounds (`report.EXPLANATION`).
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from tqdm.auto import tqdm
from transformers import PreTrainedConfig, PreTrainedModel

from ..any_vit.model_facts import key_facts
from ..any_vit.projection import find_projection
from ..attacks.public_base import relative_drift
from ..attacks.tools.priors import ImagePrior, image_prior, synthetic_prior
from ..catalog.sample_images import SAMPLE_IMAGES
from ..checkpoints import default_checkpoint
from ..convert import convert_checkpoint
from ..setr import keys
from ..setr.client_embedding import ClientEmbedding
from ..setr.encryption_key import EncryptionKey
from ..setr.model_encryption import PatchProjection
from ..setr.modeling_setr import SetrForSemanticSegmentation
from ..setr.public_facts import EMBEDDING_FAMILY, check_plain_model
from .advice import Deployment, advise
from .findings import as_picture
from .report import AuditReport
from .scene import Scene
from .subject import Subject, matrix_of
from .trials import all_trials, seed_trial

Budget = Literal["quick", "full"]
COUNTS = {"quick": (1, 16), "full": (1, 4, 16, 64)}  # ciphertexts that an attacker has
NUM_SCORED = {"quick": 1, "full": 4}
FAMILIES = (*keys.FAMILIES, "embedding")


def audit(
    model: PreTrainedModel,
    images: Sequence[Any],
    *,
    processor: Any,
    families: Sequence[str] = FAMILIES,
    prior_images: Sequence[Any] = (),
    public_base: np.ndarray | None = None,
    encryption: Mapping[str, Any] | None = None,
    deployment: Deployment | None = None,
    budget: Budget = "quick",
    progress: bool = True,
) -> AuditReport:
    """A plain model and plain images -> what attackers recover from their ciphertexts, and advice.

    Args:
        model: plain, of any class that can be encrypted and takes images, in evaluation mode.
        images: the victims: photos as the processor takes them, all of one size after its resizing. Their number is
            the largest that an attacker collects.
        processor: the model's.
        families: the cipher families to try.
        prior_images: photographs of similar scenes, which the attacker knows; never victims. Photographs that
            scikit-image and scikit-learn ship, and a model without any photograph, are tried anyway.
        public_base: (L, hidden_size), the patch embedding of public weights near the model's: `load_embedding`.
        encryption: `config.encryption` of the encrypted model in use, whose fingerprint tells keys from small seeds.
        deployment: where the model will run; by default clients can hold a file and send 16-bit numbers, and the base
            is public if `public_base` is given.
        budget: "quick" ends in about two minutes on two cores for 16 images; "full" tries more numbers of ciphertexts,
            scores more reconstructions and trains an inversion network.
        progress: shows bars on stderr.

    Raises:
        EncryptionStateError: the model is encrypted.
        ValueError: no images, or of several sizes; a victim among the prior images; an unknown family or budget.
    """
    check_plain_model(
        key_facts(model),
        advice="the audit encrypts it under keys of its own, so decrypt it first with decrypt_model(secret_key)",
    )
    if budget not in COUNTS:
        raise ValueError(f"expected a budget among {', '.join(COUNTS)}, got {budget!r}")
    subject = Subject.of(model, processor)
    scene = _scene(subject, images, prior_images, public_base, budget, progress)
    trials = all_trials(scene, fresh_keys(families, subject.projection), learned=budget == "full")
    if encryption is not None and encryption["family"] in keys.FAMILIES:
        trials.append(seed_trial(encryption))
    bar = tqdm(trials, desc="audit", unit="attack", disable=not progress)
    findings = []
    for trial in bar:
        bar.set_postfix_str(f"{trial.family}: {trial.attack}")
        findings.append(trial.find(scene))
    deployment = deployment or Deployment(
        base_is_public=public_base is not None, client_holds_file=True, float_transport=True
    )
    return AuditReport(
        subject=_facts(model, scene),
        findings=findings,
        advice=advise(deployment, findings),
        original=as_picture(scene.images[0]),
    )


def fresh_keys(families: Iterable[str], projection: PatchProjection) -> dict[str, Any]:
    """Names of families -> {family: a new key, or for `embedding` a client embedding of the plain projection}.

    Raises:
        ValueError: an unknown family; lists the known ones.
    """
    unknown = sorted(set(families) - set(FAMILIES))
    if unknown:
        raise ValueError(f"expected families among {', '.join(FAMILIES)}, got {', '.join(unknown)}")

    def fresh(family: str) -> EncryptionKey:
        is_embedding = family == EMBEDDING_FAMILY
        return ClientEmbedding.from_projection(projection) if is_embedding else keys.SecretKey.generate(family)

    return {family: fresh(family) for family in families}


def load_embedding(checkpoint: str | Path) -> np.ndarray:
    """A SETR folder, "default", or what `convert_checkpoint` reads -> E for pixels in [-1, 1], (L, D) float64.

    Raises:
        OSError: there is no such checkpoint.
        ConversionError: it is none that is known.
    """
    folder = Path(default_checkpoint() if str(checkpoint) == "default" else checkpoint)
    is_setr = folder.is_dir() and PreTrainedConfig.get_config_dict(folder)[0].get("model_type") == "setr"
    model = SetrForSemanticSegmentation.from_pretrained(folder) if is_setr else convert_checkpoint(folder).model
    return embedding_matrix_of(model)


def embedding_matrix_of(model: PreTrainedModel) -> np.ndarray:
    """A model of any class -> E, (L, D) float64, for pixels as its processor makes them."""
    return matrix_of(find_projection(model))


def _scene(
    subject: Subject,
    images: Sequence[Any],
    prior_images: Sequence[Any],
    public_base: np.ndarray | None,
    budget: Budget,
    progress: bool,
) -> Scene:
    victims = [subject.pixels(image) for image in images]
    sizes = sorted({image.shape[1:] for image in victims})
    if len(sizes) != 1:
        raise ValueError(f"expected one or more images that the processor gives one size, got sizes {sizes}")
    return Scene(
        images=victims,
        patch_size=subject.projection.patch_size,
        embedding=subject.embedding,
        priors=_priors(prior_images, victims, subject),
        counts=sorted({min(count, len(victims)) for count in COUNTS[budget]}),
        num_scored=NUM_SCORED[budget],
        segment=subject.segment,
        public_base=public_base,
        progress=progress,
    )


def _priors(prior_images: Sequence[Any], victims: Sequence[np.ndarray], subject: Subject) -> list[ImagePrior]:
    """Synthetic, photos and, if there are any, in-domain; all prepared as the client prepares its own."""
    patch_size = subject.projection.patch_size
    photos = [subject.pixels(Image.fromarray(photo.load())) for photo in SAMPLE_IMAGES.values()]
    photos = [photo for photo in photos if not _occurs(photo, victims)]
    priors = [synthetic_prior(patch_size), image_prior(photos, patch_size, name="photos", num_shifts=2)]
    similar = [subject.pixels(image) for image in prior_images]
    if any(_occurs(image, victims) for image in similar):
        raise ValueError("expected prior images that are no victims, got one that is; take it out of either")
    return [*priors, image_prior(similar, patch_size)] if similar else priors


def _occurs(image: np.ndarray, others: Iterable[np.ndarray]) -> bool:
    return any(image.shape == other.shape and np.allclose(image, other, atol=1e-3) for other in others)


def _facts(model: PreTrainedModel, scene: Scene) -> dict[str, Any]:
    height, width = scene.images[0].shape[1:]
    facts: dict[str, Any] = {"model": model.config.name_or_path or type(model).__name__}
    facts |= {"num_images": len(scene.images), "height": height, "width": width, "patch_size": scene.patch_size}
    if scene.public_base is not None:
        facts["drift_from_public_base"] = round(relative_drift(scene.embedding, scene.public_base), 4)
    return facts
