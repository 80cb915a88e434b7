"""Which models of transformers can be encrypted, and how exactly: a table, measured on tiny random models.

    python benchmarks/encryptable_models.py > models.md

For each class: its patch embedding, the side of a block, the channels (times frames), and the largest difference of
any output between the encrypted model with encrypted inputs and the plain one, relative to the largest number of that
output, the worst of the four key families. Then the models that are refused, with the reason. It takes about a minute.
"""

import warnings

import torch
import transformers

from hf_privseg import SecretKey, encrypt_model
from hf_privseg.any_vit.projection import find_projection, projection_name
from hf_privseg.any_vit.support import untested
from hf_privseg.reporting.tables import markdown_table
from hf_privseg.setr.public_facts import FAMILIES
from tiny_vision import CASES, REFUSED, Case, randomize
from tiny_vision.measuring import measure, relatives

KEYS = [(SecretKey(bytes(32), family), SecretKey(bytes([1, *range(31)]), family)) for family in FAMILIES]
WORKS = ("class", "on", "patch embedding", "block", "channels", "error", "remark")


def row_of(case: Case) -> list[str]:
    """A tiny model -> its row of the table."""
    model = case.model
    name, found = projection_name(model), find_projection(model)
    error = max(each.encrypted for each in measure(case, KEYS))
    owner = type(model.get_submodule(name)).__name__
    backbone = getattr(model.config, "backbone_config", None)
    return [
        type(model).__name__,
        backbone.model_type if backbone is not None else "",
        f"`{name}` ({owner})",
        "row" if found.patch_size == 1 else str(found.patch_size),
        str(found.num_channels),
        f"{error:.0e}",
        remark(found.num_channels * found.patch_size**2, case),
    ]


def remark(block_length: int, case: Case) -> str:
    if block_length < 8**2 * 3:
        return "blocks so small that one ciphertext shows the scene"
    if "input_ids" in case.inputs:
        return "text stays plain"
    return "prompts stay plain" if "input_points" in case.inputs else ""


def refusal_of(name: str) -> list[str]:
    model = REFUSED[name][0]()
    try:
        encrypt_model(model, SecretKey.generate(), unverified=True)
    except ValueError as error:
        reason = str(error).partition(" cannot be encrypted")[2].removeprefix(", because of ").removeprefix(": ")
        return [type(model).__name__, reason.partition(": pixels have to be read")[0]]
    raise AssertionError(f"{name} was encrypted")


def main() -> None:
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)  # for the few numbers that `randomize` leaves
    rows: dict[tuple[str, ...], list[str]] = {}
    for build in CASES.values():
        case = build()
        randomize(case.model)
        for each in (case, *relatives(case)):
            row = row_of(each)
            rows.setdefault(tuple(row[:2]), row)
            assert not untested([row[0]]), row
    print(f"transformers {transformers.__version__}, {len(rows)} classes\n")
    print(markdown_table(WORKS, [rows[name] for name in sorted(rows)]))
    print("## Refused\n")
    print(markdown_table(("class", "refused because"), sorted(map(refusal_of, REFUSED))))


if __name__ == "__main__":
    main()
