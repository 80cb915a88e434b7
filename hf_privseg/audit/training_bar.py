"""What an audit says about the training of a network: a bar while it runs, a sentence about what it gained."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm.auto import tqdm

from ..attacks.learned_inversion import LearnedInverter


@contextmanager
def training_bar(num_steps: int, *, shown: bool) -> Iterator[Callable[..., None]]:
    """Within the context, a bar on stderr; yields what moves it to a number of steps done."""
    with tqdm(total=num_steps, desc="training", leave=False, disable=not shown) as bar:
        yield lambda done, *_: bar.update(done - bar.n)


def gained(inverter: LearnedInverter, baseline: str) -> str:
    """A trained network and the name of what it started from -> whether the training gained anything."""
    told = f"on images held out {inverter.learned_psnr:.1f} dB, the {baseline} {inverter.linear_psnr:.1f} dB"
    return told if inverter.succeeded else f"fails to beat the {baseline}: {told}"
