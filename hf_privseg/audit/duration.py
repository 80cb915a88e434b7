"""How long the attacks of an audit take, told before they run: from the times of one that was measured.

`attack_seconds.json` has them; `benchmarks/audit_seconds.py` makes it of the report of that audit.
"""

import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from statistics import median
from typing import Any

from ..setr.counts import counted
from .trial import Trial

_FILE = "attack_seconds.json"


def expected_seconds(trials: Sequence[Trial]) -> list[float]:
    """Seconds that each attack takes on the machine of the measured audit, roughly.

    Time is taken to grow with the pixels of an image. An attack that was not measured on this family, or with another
    number of images, takes as long as the nearest that was; one of somebody else's as long as the median of ours.
    """
    times = measured()
    known = times["seconds"]
    any_attack = median(
        seconds for attack in known.values() for counts in attack.values() for seconds in counts.values()
    )

    def expected(trial: Trial) -> float:
        _, height, width = trial.scene.images[0].shape
        of_attack = known.get(trial.attack.name)
        if of_attack is None:
            return any_attack
        counts = of_attack.get(trial.family) or next(iter(of_attack.values()))
        nearest = min(counts, key=lambda count: abs(math.log((1 + int(count)) / (1 + trial.num_images))))
        return counts[nearest] * height * width / times["pixels"]

    return [expected(trial) for trial in trials]


def estimate_in_words(seconds: float, num_attacks: int) -> str:
    """One line for people, such as "92 attacks: about 4 minutes on a machine such as AMD EPYC, 2 cores"."""
    minutes = counted(max(1, round(seconds / 60)), "minute")
    return f"{counted(num_attacks, 'attack')}: about {minutes} on a machine such as {measured()['machine']}"


@cache
def measured() -> Mapping[str, Any]:
    """The measured times: {"machine", "pixels" of an image, "seconds": {attack: {family: {count: s}}}}."""
    return json.loads(files(__package__).joinpath(_FILE).read_text())
