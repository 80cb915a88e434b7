"""Every attack that an audit tries, in one table. To add an attack, write its function and add its entry here."""

from collections.abc import Iterator, Mapping, Sequence

from ..setr import keys
from ..setr.encryption_key import EncryptionKey
from ..setr.public_facts import EMBEDDING_FAMILY
from . import attacks_on_ciphertexts as ciphertexts
from . import attacks_with_a_base as base
from . import attacks_with_more as more
from . import baselines
from .findings import ANY_FAMILY
from .scene import Scene
from .target import Target
from .trial import (
    Attack,
    Trial,
    each_prior_and_count,
    no_image,
    one_image,
    one_image_and_the_best_prior,
)

FAMILIES = (*keys.FAMILIES, EMBEDDING_FAMILY)
PERMUTATIONS = ("permutation", "signed_permutation")
ROTATIONS = ("orthogonal", "matrix")  # a matrix of condition 10 is near enough to one
ANY = (ANY_FAMILY,)

# What the attacker has goes from nothing to public weights, in the order of `findings.ATTACKERS`.
ATTACKS = (
    Attack(name="constant grey", attacker="baseline", families=ANY, run=baselines.constant_grey, inputs=no_image),
    Attack(name="block means", attacker="baseline", families=ANY, run=baselines.block_means, inputs=no_image),
    Attack(
        name="segmentation map",
        attacker="baseline",
        families=ANY,
        run=baselines.segmentation_map,
        inputs=baselines.if_answers_can_be_compared,
    ),
    Attack(
        name="learned segmentation map",
        attacker="baseline",
        families=ANY,
        run=baselines.learned_segmentation_map,
        inputs=baselines.if_answers_can_be_learned,
        trains=True,
    ),
    Attack(
        name="ciphertext as it is",
        attacker="baseline",
        families=FAMILIES,
        run=baselines.ciphertext_as_it_is,
        inputs=one_image,
    ),
    Attack(
        name="first component",
        attacker="ciphertexts",
        families=FAMILIES,
        run=ciphertexts.first_component,
        inputs=one_image_and_the_best_prior,
    ),
    Attack(
        name="matching",
        attacker="ciphertexts",
        families=PERMUTATIONS,
        run=ciphertexts.matching,
        inputs=each_prior_and_count,
    ),
    Attack(
        name="alignment",
        attacker="ciphertexts",
        families=ROTATIONS,
        run=ciphertexts.alignment,
        inputs=each_prior_and_count,
    ),
    Attack(
        name="alignment by classes",
        attacker="server",
        families=ROTATIONS,
        run=ciphertexts.alignment_by_classes,
        inputs=ciphertexts.largest_counts_where_answers_are_known,
    ),
    Attack(
        name="canonical correlations",
        attacker="ciphertexts",
        families=("matrix", EMBEDDING_FAMILY),
        run=ciphertexts.canonical_correlations,
        inputs=each_prior_and_count,
    ),
    Attack(
        name="learned alignment",
        attacker="ciphertexts",
        families=("orthogonal",),
        run=ciphertexts.learned_alignment,
        inputs=ciphertexts.as_many_as_can_be_rehearsed,
        trains=True,
    ),
    Attack(
        name="small seeds", attacker="ciphertexts", families=ANY, run=more.small_seeds, inputs=more.if_a_key_is_in_use
    ),
    Attack(name="smooth filters", attacker="model", families=PERMUTATIONS, run=more.smooth_filters, inputs=no_image),
    Attack(
        name="canonical correlations of z",
        attacker="server",
        families=ANY,
        run=ciphertexts.canonical_correlations_of_z,
        inputs=each_prior_and_count,
    ),
    Attack(
        name="alignment of z",
        attacker="server",
        families=ANY,
        run=ciphertexts.alignment_of_z,
        inputs=each_prior_and_count,
    ),
    Attack(
        name="alignment of z by classes",
        attacker="server",
        families=ANY,
        run=ciphertexts.alignment_of_z_by_classes,
        inputs=ciphertexts.largest_counts_where_answers_are_known,
    ),
    Attack(
        name="one known image",
        attacker="known plaintext",
        families=FAMILIES,
        run=more.one_known_image,
        inputs=more.if_other_images_are_left,
    ),
    Attack(
        name="one chosen image",
        attacker="chosen plaintext",
        families=FAMILIES,
        run=more.one_chosen_image,
        inputs=one_image,
    ),
    Attack(
        name="row matching",
        attacker="public base",
        families=PERMUTATIONS,
        run=base.row_matching,
        inputs=base.if_a_base_is_public,
    ),
    Attack(
        name="Wiener inversion",
        attacker="public base",
        families=ANY,
        run=base.wiener_inversion,
        inputs=base.each_prior,
    ),
    Attack(
        name="calibrated inversion",
        attacker="public base",
        families=ANY,
        run=base.calibrated_inversion,
        inputs=base.if_the_base_has_drifted,
    ),
    Attack(
        name="stolen embedding",
        attacker="public base",
        families=ANY,
        run=base.stolen_embedding,
        inputs=base.if_layers_can_be_used,
        trains=True,
    ),
    Attack(
        name="learned inversion",
        attacker="public base",
        families=ANY,
        run=base.learned_inversion,
        inputs=base.if_the_prior_has_images,
        trains=True,
    ),
)


def _stand_ins(target: Target) -> tuple[str, ...]:
    """The families of this package whose attacks are tried on a target of a family that nobody has attacked yet."""
    if target.family in FAMILIES:
        return ()
    return ("matrix", "signed_permutation") if target.is_permutation else ("matrix",)


def trials_of(
    scene: Scene,
    secret_keys: Mapping[str, EncryptionKey],
    *,
    attacks: Sequence[Attack] = ATTACKS,
    training: bool = False,
) -> Iterator[Trial]:
    """A scene and {family: fresh key} -> the trials of each attack: first on any family, then family by family.

    Args:
        scene: what is attacked.
        secret_keys: a key of each family that is tried.
        attacks: the attacks to try.
        training: whether to try those that train a network, too.
    """
    chosen = [attack for attack in attacks if training or not attack.trains]
    targets = [None, *(Target(scene, secret_key) for secret_key in secret_keys.values())]
    for target in targets:
        names = {ANY_FAMILY} if target is None else {target.family, *_stand_ins(target)}
        for attack in chosen:
            if not names.isdisjoint(attack.families):
                for prior, count in attack.inputs(scene):
                    yield Trial(attack=attack, scene=scene, target=target, prior=prior, num_images=count)
