"""Counts in sentences."""


def counted(number: int, noun: str) -> str:
    """A number and its noun, whose plural ends in s or es: "1 image", "2 images", "3 classes"."""
    if number == 1:
        return f"{number} {noun}"
    return f"{number} {noun}{'es' if noun.endswith('s') else 's'}"
