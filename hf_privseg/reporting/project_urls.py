"""Addresses of this project."""

from importlib.metadata import PackageNotFoundError, metadata


def project_urls() -> dict[str, str]:
    """Name -> https address, as the metadata of the installed package have them ([project.urls] of pyproject.toml)."""
    try:
        named = metadata("hf-privseg").get_all("Project-URL") or []
    except PackageNotFoundError:
        return {}
    pairs = (each.partition(", ") for each in named)
    return {name: address for name, _, address in pairs if address.startswith("https://")}
