"""Where things lie in a checkout."""

from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
EXAMPLES = ROOT / "examples"
VECTORS_FOLDER = TESTS / "vectors"
