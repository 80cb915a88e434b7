"""The commands on a model's encryption: encrypt-model, decrypt-model, rekey, make-rekey-update, apply-rekey-update.

Each reads a model and writes another one, so that a mistake costs nothing.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from ..setr.public_facts import check_key_fits
from .options import Force, Json, KeyFile, Model, ModelFolder, read_key
from .output import report, write_secret

if TYPE_CHECKING:
    from ..setr.encryption_key import EncryptionKey
    from ..setr.keys import SecretKey

NewKeyFile = Annotated[Path, typer.Option("--new-key-file", "-n", help="File with the key that comes after it.")]


def make_client_embedding(
    model: Model,
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="File for the client embedding.")],
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Make the client's part of a plain model's patch embedding: a secret file that serves this model as a key file.

    The server then sees less than with any key, and encrypted images are smaller where the patch embedding is narrow
    (half the size for the embedded model). In return the file, of megabytes, holds the patch embedding up to a
    rotation: whoever has it and the encrypted model can invert all images, under this or any other key.
    """
    from ..setr.client_embedding import ClientEmbedding
    from ..storage.models import load_model

    network, _ = load_model(model)
    embedding = ClientEmbedding.generate(network)
    write_secret(embedding, output, force=force)
    length, rank = embedding.shape
    report(
        {"path": output, "block_length": length, "numbers_sent": rank, **embedding.facts.to_dict()},
        f"Wrote {output}: {rank} numbers for the {length} of a block, fingerprint {embedding.fingerprint}, readable "
        "by you alone.",
        f"Next: privseg encrypt-model {model} encrypted_model --key-file {output}",
        as_json=as_json,
    )


def encrypt_model(
    model: Model, output: ModelFolder, key_file: KeyFile = None, force: Force = False, as_json: Json = False
) -> None:
    """Encrypt a plain model, with its processor's settings, into a new folder.

    The folder holds no key and can be given to whoever runs the model. Keep the plain model private: whoever has it
    can invert the encrypted images.
    """
    from ..storage.models import check_model_folder, load_model, save_model

    key = read_key(key_file)
    check_model_folder(output, replace=force)
    network, processor = load_model(model)
    save_model(network.encrypt_model(key), processor, output, licence_from=model, overwrite=force)
    report(
        _written(output, key.facts.to_dict()),
        f"Wrote {output}: encrypted with the key of fingerprint {key.fingerprint} ({key.family}).",
        f"Next: privseg encrypt PHOTOS --model {output} --output encrypted{_key_option(key_file)}",
        as_json=as_json,
    )


def decrypt_model(
    model: Model, output: ModelFolder, key_file: KeyFile = None, force: Force = False, as_json: Json = False
) -> None:
    """Undo encrypt-model: an encrypted model and its key become the plain model, in a folder that only you can open.

    It is the plain model bit for bit if the key is of a permutation family, and up to rounding otherwise.
    """
    from ..storage.models import check_model_folder, load_model, load_settings, save_model

    key = read_key(key_file)
    check_model_folder(output, replace=force)
    check_key_fits(key.facts, load_settings(model)[0].key_facts, model=f"the model {model}")
    network, processor = load_model(model)
    save_model(network.decrypt_model(key), processor, output, licence_from=model, private=True, overwrite=force)
    report(
        _written(output, None),
        f"Wrote {output}: the plain model, readable by you alone.",
        "Keep it private: whoever has it can invert whatever is encrypted for the model, under any key.",
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
    """Replace the key of an encrypted model, without retraining: for the owner, who has both keys.

    The families of the keys may differ. Images encrypted with the old key do not fit the new model. Where the model
    lies with somebody who gets neither key, use make-rekey-update and apply-rekey-update.
    """
    from ..storage.models import check_model_folder, load_model, load_settings, save_model

    old_key, new_key = _two_keys(key_file, new_key_file)
    check_model_folder(output, replace=force)
    check_key_fits(old_key.facts, load_settings(model)[0].key_facts, model=f"the model {model}")
    network, processor = load_model(model)
    save_model(network.rekey_model(old_key, new_key), processor, output, licence_from=model, overwrite=force)
    report(
        _written(output, new_key.facts.to_dict()),
        f"Wrote {output}: encrypted with the key of fingerprint {new_key.fingerprint} ({new_key.family}), "
        f"no longer with {old_key.fingerprint} ({old_key.family}).",
        f"Next: privseg encrypt PHOTOS --model {output} --output encrypted --key-file {new_key_file}",
        as_json=as_json,
    )


def make_rekey_update(
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="File for the update, by custom NAME.rekey.")],
    new_key_file: NewKeyFile,
    key_file: KeyFile = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="The model that the update is for: its patch size is used, and the key is checked. Without it, "
            "patches of 16 pixels.",
        ),
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Make a file with which a server replaces the key of its encrypted model, and learns neither key.

    The file is no key, yet confidential between you and the server: it turns images of the old key into images of the
    new one, and back. It is no help against a server that has the old key.
    """
    from ..setr.configuration_setr import SetrConfig
    from ..setr.rekey_update import RekeyUpdate
    from ..storage.models import load_settings

    old_key, new_key = _two_keys(key_file, new_key_file)
    config = SetrConfig()
    if model is not None:
        config = load_settings(model)[0]
        check_key_fits(old_key.facts, config.key_facts, model=f"the model {model}")
    keys = cast("tuple[SecretKey, SecretKey]", (old_key, new_key))  # what is no SecretKey is refused there
    update = RekeyUpdate.between(*keys, patch_size=config.patch_size, num_channels=config.num_channels)
    try:
        update.to_file(output, overwrite=force)
    except FileExistsError:
        raise FileExistsError(
            f"{output} exists, and a model that awaits the update in it would lose it; choose another path, or "
            "replace it with --force"
        ) from None
    report(
        {"path": output, "old": vars(update.old), "new": vars(update.new), "patch_size": update.patch_size},
        f"Wrote {output}: from the key of fingerprint {old_key.fingerprint} ({old_key.family}) to "
        f"{new_key.fingerprint} ({new_key.family}), readable by you alone.",
        f"Next, on the server: privseg apply-rekey-update ENCRYPTED_MODEL {output} NEW_MODEL",
        as_json=as_json,
    )


def apply_rekey_update(
    model: Model,
    update_file: Annotated[Path, typer.Argument(metavar="UPDATE", help="What make-rekey-update wrote.")],
    output: ModelFolder,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Replace the key of an encrypted model by an update from its owner: for a server, which has neither key."""
    from ..setr.rekey_update import RekeyUpdate
    from ..storage.models import check_model_folder, load_model, save_model

    update = RekeyUpdate.from_file(update_file)
    check_model_folder(output, replace=force)
    network, processor = load_model(model)
    save_model(network.apply_rekey_update(update), processor, output, licence_from=model, overwrite=force)
    report(
        _written(output, network.config.encryption),
        f"Wrote {output}: encrypted with the key of fingerprint {update.new.fingerprint} ({update.new.family}), "
        f"no longer with {update.old.fingerprint} ({update.old.family}).",
        as_json=as_json,
    )


def _two_keys(key_file: Path | None, new_key_file: Path) -> tuple["EncryptionKey", "EncryptionKey"]:
    """The old key and the new one, which differ."""
    old_key, new_key = read_key(key_file), read_key(new_key_file)
    if old_key == new_key:
        raise ValueError(
            f"expected two keys, got twice the one of fingerprint {old_key.fingerprint} ({old_key.family}); make a "
            "new one with privseg keygen"
        )
    return old_key, new_key


def _written(folder: Path, encryption: dict[str, Any] | None) -> dict[str, Any]:
    return {"path": folder, "encryption": encryption}


def _key_option(key_file: Path | None) -> str:
    return f" --key-file {key_file}" if key_file else ""
