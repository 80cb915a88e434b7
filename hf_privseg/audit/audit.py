"""Every attack at once, on one's own model and images: what does the provider recover, or somebody with more?

The owner runs it, for it takes the plain model and plain images to compare with. What leaks does not depend on the
key, so keys are drawn afresh. The images are the victims; the attacker knows other photographs, the priors. All
figures are lower bounds (`report.EXPLANATION`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from tqdm.auto import tqdm
from transformers import PreTrainedConfig

from ..attacks.public_base import embedding_matrix, relative_drift
from ..attacks.tools.priors import ImagePrior, image_prior, synthetic_prior
from ..catalog.sample_images import SAMPLE_IMAGES
from ..checkpoints import default_checkpoint
from ..convert import convert_checkpoint
from ..inference.windows import logits_of
from ..setr import keys
from ..setr.client_embedding import ClientEmbedding
from ..setr.image_processing_setr import SetrImageProcessor
from ..setr.modeling_setr import SetrForSemanticSegmentation
from ..setr.public_facts import check_plain_model
from .advice import Deployment, advise
from .findings import as_picture
from .report import AuditReport
from .scene import Scene
from .trials import all_trials, seed_trial

Budget = Literal["quick", "full"]
COUNTS = {"quick": (1, 16), "full": (1, 4, 16, 64)}  # ciphertexts that an attacker has
SEGMENTED_SIDE = 384  # pixels
NUM_SCORED = {"quick": 1, "full": 4}
FAMILIES = (*keys.FAMILIES, "embedding")


def audit(
    model: SetrForSemanticSegmentation,
    images: Sequence[Any],
    *,
    processor: SetrImageProcessor,
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
        model: plain, in evaluation mode.
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
        model.config.key_facts,
        advice="the audit encrypts it under keys of its own, so decrypt it first with decrypt_model(secret_key)",
    )
    if budget not in COUNTS:
        raise ValueError(f"expected a budget among {', '.join(COUNTS)}, got {budget!r}")
    scene = _scene(model, images, processor, prior_images, public_base, budget, progress)
    trials = all_trials(scene, fresh_keys(families, model), learned=budget == "full")
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
    subject = _subject(model, scene)
    return AuditReport(
        subject=subject, findings=findings, advice=advise(deployment, findings), original=as_picture(scene.images[0])
    )


def fresh_keys(families: Iterable[str], model: SetrForSemanticSegmentation) -> dict[str, Any]:
    """Names of families -> {family: a new key, or for `embedding` a client embedding of the plain model}.

    Raises:
        ValueError: an unknown family; lists the known ones.
    """
    unknown = sorted(set(families) - set(FAMILIES))
    if unknown:
        raise ValueError(f"expected families among {', '.join(FAMILIES)}, got {', '.join(unknown)}")
    return {
        family: ClientEmbedding.generate(model) if family == "embedding" else keys.SecretKey.generate(family)
        for family in families
    }


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


def embedding_matrix_of(model: SetrForSemanticSegmentation) -> np.ndarray:
    """A model -> E, (L, D) float64, its patch embedding as the paper has it (section 3.2.1)."""
    weight = model.base_model.embeddings.patch_embeddings.projection.weight
    return embedding_matrix(weight.detach().cpu().numpy())


def segmenter(model: SetrForSemanticSegmentation) -> Callable[[np.ndarray], np.ndarray]:
    """A model -> what maps (3, height, width) pixels in [-1, 1] to labels, for comparisons.

    Larger images are reduced to a longer side of 384 pixels first: labels that are compared need no more.
    """
    patch_size = model.config.patch_size

    @torch.inference_mode()
    def segment(image: np.ndarray) -> np.ndarray:
        pixel_values = torch.from_numpy(np.ascontiguousarray(image, np.float32))[None]
        scale = min(1.0, SEGMENTED_SIDE / max(image.shape[1:]))
        size = [max(1, round(side * scale / patch_size)) * patch_size for side in image.shape[1:]]
        pixel_values = F.interpolate(pixel_values, size, mode="bilinear", antialias=True)
        return logits_of(model, pixel_values)[0].argmax(0).cpu().numpy()

    return segment


def _scene(
    model: SetrForSemanticSegmentation,
    images: Sequence[Any],
    processor: SetrImageProcessor,
    prior_images: Sequence[Any],
    public_base: np.ndarray | None,
    budget: Budget,
    progress: bool,
) -> Scene:
    victims = [_prepared(image, processor) for image in images]
    sizes = sorted({image.shape[1:] for image in victims})
    if len(sizes) != 1:
        raise ValueError(f"expected one or more images that the processor gives one size, got sizes {sizes}")
    patch_size = model.config.patch_size
    return Scene(
        images=victims,
        patch_size=patch_size,
        embedding=embedding_matrix_of(model),
        priors=_priors(prior_images, victims, processor, patch_size),
        counts=sorted({min(count, len(victims)) for count in COUNTS[budget]}),
        num_scored=NUM_SCORED[budget],
        segment=segmenter(model),
        public_base=public_base,
        progress=progress,
    )


def _priors(
    prior_images: Sequence[Any], victims: Sequence[np.ndarray], processor: SetrImageProcessor, patch_size: int
) -> list[ImagePrior]:
    """Synthetic, photos and, if there are any, in-domain; all prepared as the client prepares its own."""
    photos = [_prepared(Image.fromarray(photo.load()), processor) for photo in SAMPLE_IMAGES.values()]
    photos = [photo for photo in photos if not _occurs(photo, victims)]
    priors = [synthetic_prior(patch_size), image_prior(photos, patch_size, name="photos", num_shifts=2)]
    similar = [_prepared(image, processor) for image in prior_images]
    if any(_occurs(image, victims) for image in similar):
        raise ValueError("expected prior images that are no victims, got one that is; take it out of either")
    return [*priors, image_prior(similar, patch_size)] if similar else priors


def _prepared(image: Any, processor: SetrImageProcessor) -> np.ndarray:
    """A photo -> (3, height, width) float64 in [-1, 1], as the model sees it in plain."""
    return processor(images=image, return_tensors="pt").pixel_values[0].double().numpy()


def _occurs(image: np.ndarray, others: Iterable[np.ndarray]) -> bool:
    return any(image.shape == other.shape and np.allclose(image, other, atol=1e-3) for other in others)


def _subject(model: SetrForSemanticSegmentation, scene: Scene) -> dict[str, Any]:
    height, width = scene.images[0].shape[1:]
    facts: dict[str, Any] = {"model": model.config.name_or_path or type(model).__name__}
    facts |= {"num_images": len(scene.images), "height": height, "width": width, "patch_size": scene.patch_size}
    if scene.public_base is not None:
        facts["drift_from_public_base"] = round(relative_drift(scene.embedding, scene.public_base), 4)
    return facts
