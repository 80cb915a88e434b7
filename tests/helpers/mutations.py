"""Mutations of sound inputs, for tests that feed parsers with what a stranger may send."""

import copy
import json

_EXTREMES = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\x80\0\0\0", b"\0\0\xff\xff")
_SYNTAX = b'0123456789[]{},:"-eE.\\ \xff\x00a'
_DIGITS, _DEEP, _TWICE = "@digits@", "@deep@", "@twice@"  # JSON that Python does not write; `json_text` puts it in
_VALUES: tuple[object, ...] = (
    None, True, False, 0, 1, -1, 2, 3.5, -0.5, 255, 256, 2**31, 2**63, -(2**63), 2**64, 10**30, 1e308, 1e-308,
    float("nan"), float("inf"), "", "x", "0", "-1", "\0", "\ud800", "x" * 3000, "float32", "Tensor", "cpu",
    [], {}, [None], [[]], {"": None}, [1, 2], [2**40, 2**40], [0, 0], [1.5, "a"], ["a"] * 3, {"a": {"b": [1]}},
    {"0": "a"}, {"height": 2**40, "width": 1}, {"shortest_edge": None}, {"__float__": "NaN"}, _DIGITS, _DEEP, _TWICE,
)  # fmt: skip
_NAMES = ("__class__", "to_dict", "decoder", "num_labels", "torch_dtype", "per_layer_config", "quantization_config",
          "attn_implementation", "rope_scaling", "layer_types", "auto_map", "_name_or_path", "architectures", "device",
          "output_attentions", "__metadata__", "x")  # fmt: skip


def mutated_bytes(data, rng):
    """Bytes -> the same with one to four places changed, cut, repeated or filled."""
    data = bytearray(data or b"x")
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(min(len(data), 400) if rng.random() < 0.6 else len(data))
        match rng.randrange(6):
            case 0:
                data[place] = rng.choice(_SYNTAX)
            case 1:
                data[place] ^= 1 << rng.randrange(8)
            case 2:
                data[place : place + 4] = rng.choice(_EXTREMES)
            case 3:
                data = data[: place + 1]
            case 4:
                data[place:place] = rng.randbytes(rng.randint(1, 8))
            case 5:
                other = rng.randrange(len(data))
                data[place : place + 8] = data[other : other + 8]
    return bytes(data)


def mutated_value(value, rng):
    """A value of dictionaries, lists and plain values -> a copy with up to three places replaced, removed or added."""
    changed = [copy.deepcopy(value)]
    for _ in range(rng.randint(1, 3)):
        holder, place = changed, 0
        while isinstance(holder[place], dict | list) and holder[place] and rng.random() < 0.85:
            holder = holder[place]
            place = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        action = rng.random()
        if action < 0.15 and holder is not changed:
            del holder[place]
        elif action < 0.3 and isinstance(holder, dict):
            holder[rng.choice(_NAMES)] = copy.deepcopy(rng.choice(_VALUES))
        else:
            holder[place] = copy.deepcopy(rng.choice(_VALUES))
    return changed[0]


def json_text(value):
    """A mutated value -> JSON, with numbers of thousands of digits, deep lists and equal names where they belong."""
    text = json.dumps(value)
    text = text.replace(f'"{_DIGITS}"', "9" * 5000).replace(f'"{_DEEP}"', "[" * 20000 + "]" * 20000)
    return text.replace(f'"{_TWICE}"', '{"a": 1, "a": 2}')


def mutated_json(value, rng):
    """A value -> the bytes of mutated JSON of it."""
    data = json_text(mutated_value(value, rng)).encode()
    return mutated_bytes(data, rng) if rng.random() < 0.2 else data


def mutated_safetensors(data, rng):
    """The content of a safetensors file -> the same with another header of the length that it says, or damaged."""
    if rng.random() < 0.3:
        return mutated_bytes(data, rng)
    length = int.from_bytes(data[:8], "little")
    header, numbers = json.loads(data[8 : 8 + length]), data[8 + length :]
    entries = header.get("__metadata__", {})
    inner = [name for name, text in entries.items() if text.startswith("{")]
    if inner and rng.random() < 0.6:  # the JSON within the JSON
        entries[inner[0]] = json_text(mutated_value(json.loads(entries[inner[0]]), rng))
    else:
        header = mutated_value(header, rng)
    text = json_text(header).encode()
    text = mutated_bytes(text, rng) if rng.random() < 0.1 else text
    if rng.random() < 0.1 and numbers:
        numbers = mutated_bytes(numbers, rng)
    return len(text).to_bytes(8, "little") + text + numbers
