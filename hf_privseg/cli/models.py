"""The commands that encrypt, decrypt and rekey a model.

Each of them reads one model and writes another, so that a mistake costs nothing.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from ..setr.public_facts import check_key_fits, check_plain_model
from .options import Force, Json, KeyFile, Model, ModelFolder, read_key
from .output import readable_by, report

if TYPE_CHECKING:
    from ..setr.encryption_key import EncryptionKey
    from ..setr.keys import SecretKey

_RENEW = "change its key with privseg rekey, or decrypt it first with privseg decrypt-model"

NewKeyFile = Annotated[Path, typer.Option("--new-key-file", "-n", help="File with the new key.")]


def encrypt_model(
    model: Model,
    output: ModelFolder,
    key_file: KeyFile = None,
    example: Annotated[
        Path | None,
        typer.Option(
            metavar="IMAGE",
            help="Prove on this plain image that the encrypted model computes the same. A class of model that this "
            "package's tests have not encrypted needs it, or --unverified.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    unverified: Annotated[
        bool,
        typer.Option(
            "--unverified", help="Encrypt a class of model that this package's tests have not encrypted, unproven."
        ),
    ] = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Encrypt a plain model into a new folder, together with the settings of its processor.

    The model is a SETR or any vision model of transformers whose first layer reads separate patches.
    The folder holds no key and can be given to whoever runs the model. Keep the plain model private: whoever has it
    can invert the encrypted images.
    """
    key = read_key(key_file)
    _check_folders(model, output, overwrite=force)
    from ..any_vit.model_encryption import encrypt_model
    from ..any_vit.model_facts import key_facts
    from ..inference.vision_segmentation import inputs_of_image
    from ..storage.models import save_model
    from ..storage.vision_models import load_any_model, load_any_settings

    settings, processor = load_any_settings(model)
    check_plain_model(key_facts(settings), model=f"the model {model}", advice=_RENEW)
    inputs = None if example is None else inputs_of_image(processor, example)
    network, processor = load_any_model(model)
    encrypt_model(network, key, example_inputs=inputs, unverified=unverified)
    save_model(network, processor, output, licence_from=model, overwrite=force)
    report(
        _written(output, key.facts.to_dict()),
        f"Wrote {output}: encrypted with the key of fingerprint {key.fingerprint} ({key.family}).",
        f"Next: privseg encrypt IMAGES --model {output} --output encrypted{_key_option(key_file)}",
        as_json=as_json,
    )


def decrypt_model(
    model: Model, output: ModelFolder, key_file: KeyFile = None, force: Force = False, as_json: Json = False
) -> None:
    """Decrypt a model into a new folder that only you can open: the inverse of encrypt-model.

    The result equals the plain model bit for bit if the key is of a permutation family, and up to rounding otherwise.
    """
    key = read_key(key_file)
    _check_folders(model, output, overwrite=force)
    from ..any_vit.model_encryption import decrypt_model
    from ..any_vit.model_facts import key_facts
    from ..storage.models import save_model
    from ..storage.vision_models import load_any_model, load_any_settings

    check_key_fits(key.facts, key_facts(load_any_settings(model)[0]), model=f"the model {model}")
    network, processor = load_any_model(model)
    save_model(decrypt_model(network, key), processor, output, licence_from=model, private=True, overwrite=force)
    report(
        _written(output, None),
        f"Wrote {output}: the plain model, {readable_by()}.",
        "Keep it private: whoever has it can invert all images that are encrypted for the model, under any key.",
        as_json=as_json,
    )


def rekey(
    model: Model,
    output: ModelFolder,
    new_key_file: NewKeyFile,
    key_file: KeyFile = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Replace the key of an encrypted model, without retraining. This is for the owner, who has both keys.

    The keys may be of different families. Images encrypted with the old key do not fit the new model. If the model is
    on a server that must get neither key, use make-rekey-update and apply-rekey-update.
    """
    old_key, new_key = _two_keys(key_file, new_key_file)
    _check_folders(model, output, overwrite=force)
    from ..any_vit.model_encryption import rekey_model
    from ..any_vit.model_facts import key_facts
    from ..storage.models import save_model
    from ..storage.vision_models import load_any_model, load_any_settings

    check_key_fits(old_key.facts, key_facts(load_any_settings(model)[0]), model=f"the model {model}")
    network, processor = load_any_model(model)
    rekeyed = rekey_model(network, old_key, new_key)
    save_model(rekeyed, processor, output, licence_from=model, overwrite=force)
    report(
        _written(output, new_key.facts.to_dict()),
        f"Wrote {output}: encrypted with the key of fingerprint {new_key.fingerprint} ({new_key.family}), "
        f"no longer with {old_key.fingerprint} ({old_key.family}).",
        f"Next: privseg encrypt IMAGES --model {output} --output encrypted --key-file {new_key_file}",
        as_json=as_json,
    )


def make_rekey_update(
    output: Annotated[
        Path, typer.Argument(metavar="OUTPUT", help="File for the rekey update, for example next.rekey.")
    ],
    new_key_file: NewKeyFile,
    key_file: KeyFile = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="The model that the update is for: its patch size is used, and the old key is checked. Without it, "
            "patches have 16 pixels a side.",
        ),
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Make a rekey update: a file with which a server replaces the key of its encrypted model and learns neither key.

    The file is no key, but it is confidential between you and the server: it turns images of the old key into images
    of the new one, and back. It does not help against a server that has the old key.
    """
    from ..setr.image_encrypter import ImageEncrypter
    from ..setr.rekey_update import RekeyUpdate

    old_key, new_key = _two_keys(key_file, new_key_file)
    patch_size, num_channels = ImageEncrypter.patch_size, ImageEncrypter.num_channels
    if model is not None:
        from ..any_vit.model_facts import ModelFacts
        from ..storage.vision_models import load_any_settings

        facts = ModelFacts.of(load_any_settings(model)[0])
        check_key_fits(old_key.facts, None if facts is None else facts.key, model=f"the model {model}")
        if facts is not None:
            patch_size, num_channels = facts.patch_size, facts.num_channels
    keys = cast("tuple[SecretKey, SecretKey]", (old_key, new_key))  # `between` refuses other kinds of key
    update = RekeyUpdate.between(*keys, patch_size=patch_size, num_channels=num_channels)
    try:
        update.to_file(output, overwrite=force)
    except FileExistsError:
        raise FileExistsError(
            f"{output} exists, and the model that the rekey update in it is for would lose it; choose another path, "
            "or overwrite it with --force"
        ) from None
    report(
        {"path": output, "old": vars(update.old), "new": vars(update.new), "patch_size": update.patch_size},
        f"Wrote {output}: from the key of fingerprint {old_key.fingerprint} ({old_key.family}) to "
        f"{new_key.fingerprint} ({new_key.family}), {readable_by()}.",
        f"Next, on the server: privseg apply-rekey-update ENCRYPTED_MODEL {output} NEW_MODEL",
        as_json=as_json,
    )


def apply_rekey_update(
    model: Model,
    update_file: Annotated[Path, typer.Argument(metavar="UPDATE", help="File that make-rekey-update wrote.")],
    output: ModelFolder,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Replace the key of an encrypted model with a rekey update from its owner. The server needs neither key."""
    from ..setr.rekey_update import RekeyUpdate

    update = RekeyUpdate.from_file(update_file)
    _check_folders(model, output, overwrite=force)
    from ..any_vit.model_encryption import apply_rekey_update
    from ..storage.models import save_model
    from ..storage.vision_models import load_any_model

    network, processor = load_any_model(model)
    save_model(apply_rekey_update(network, update), processor, output, licence_from=model, overwrite=force)
    report(
        _written(output, update.new.to_dict()),
        f"Wrote {output}: encrypted with the key of fingerprint {update.new.fingerprint} ({update.new.family}), "
        f"no longer with {update.old.fingerprint} ({update.old.family}).",
        as_json=as_json,
    )


def _check_folders(model: str, output: Path, *, overwrite: bool) -> None:
    """Refuse a model that is not there, and a folder that may not be written, before the imports that take seconds."""
    from ..storage.model_files import check_model_folder, model_type

    check_model_folder(output, overwrite=overwrite)
    model_type(model)


def _two_keys(key_file: Path | None, new_key_file: Path) -> tuple["EncryptionKey", "EncryptionKey"]:
    """The old key and the new one; raise ValueError where they are equal."""
    old_key, new_key = read_key(key_file), read_key(new_key_file)
    if old_key == new_key:
        raise ValueError(
            f"expected two different keys, got twice the one of fingerprint {old_key.fingerprint} ({old_key.family}); "
            "make a new one with privseg keygen"
        )
    return old_key, new_key


def _written(folder: Path, encryption: Mapping[str, object] | None) -> dict[str, object]:
    return {"path": folder, "encryption": encryption}


def _key_option(key_file: Path | None) -> str:
    return f" --key-file {key_file}" if key_file else ""
