"""A network that learns to turn what is seen of an image into its pixels, on the attacker's own images.

What is seen, (down, across, M), can be anything that the attacker can make from images of their own as well as from
the victim's: z = b E under a public base, or ciphertexts in a form that does not depend on the key (aligned with a
prior, or in canonical coordinates), for which the attacker draws keys of their own (`learned_alignment.py`). The
argument `features` makes that form, because a network cannot learn to undo a random rotation from raw ciphertexts.

The network refines a linear estimate. It reads every block together with its eight neighbours, which a decoder of
single blocks cannot use, and adds a correction, which is zero before training. Yang et al., "Adversarial neural
network inversion via auxiliary knowledge alignment", arXiv:1902.08552, 2019, train inverters on the attacker's own
images, too.

Assumptions: the attacker's images resemble the victims'. Cost: for L = 768 the default budget takes one to ten
minutes on one core.

On CamVid frames of another sequence than the attacker's, with the embedded checkpoint, the network finds nothing that
the linear estimate misses, neither without drift nor under the drift that fine-tuning makes: what is missing there is
fine texture, which does not follow from the neighbours. Under a drift of 30 % it gains nothing on the victims either.
The result of a training says what it gained on images held out.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from .tools.blocks import LinearDecoder

Observe = Callable[[np.ndarray, np.random.Generator], np.ndarray]  # a plain grid -> what is seen of it
Features = Callable[[np.ndarray], np.ndarray]  # what is seen, (down, across, any) -> (down, across, M)
Progress = Callable[[int, float], None]

LEAST_GAIN_IN_DB = 0.1  # on images held out: less is chance


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How large the network is, and how long it is trained.

    Attributes:
        steps: number of updates.
        batch_size: crops an update.
        crop_in_blocks: height and width of a crop.
        learning_rate: the peak of Adam's learning rate, which falls to zero along a cosine.
        width: channels of the network.
        depth: residual layers of the network.
        checks: how often the error on the held-out images is measured.
    """

    steps: int = 300
    batch_size: int = 8
    crop_in_blocks: int = 12
    learning_rate: float = 2e-3
    width: int = 256
    depth: int = 2
    checks: int = 6


@dataclass(frozen=True)
class LearnedInverter:
    """A trained network, and the linear estimate that it refines.

    Attributes:
        linear: the estimate that the network refines.
        network: maps features to a correction of the linear estimate.
        features: the form in which the network sees a block.
        linear_psnr: of the linear estimate on the held-out images of the attacker, in dB.
        learned_psnr: of the network on the same images.
    """

    linear: LinearDecoder
    network: nn.Module = field(repr=False)
    features: Features = field(repr=False)
    linear_psnr: float
    learned_psnr: float

    @property
    def succeeded(self) -> bool:
        """Whether the network beats the linear estimate by a tenth of a dB; otherwise `decode` is the linear one."""
        return self.learned_psnr >= self.linear_psnr + LEAST_GAIN_IN_DB

    def decode(self, grid: np.ndarray) -> np.ndarray:
        """(down, across, any) seen -> (down, across, L), estimated pixels in [-1, 1]."""
        seen = self.features(grid)
        return _decode(self.network, self.linear, seen) if self.succeeded else self.linear.decode(seen)


class _Refiner(nn.Module):
    """The network: `(batch, M, down, across)` features -> `(batch, L, down, across)` correction, zero at first."""

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, seen: torch.Tensor, error_scale: float, block_length: int, budget: Budget):
        super().__init__()
        self.register_buffer("mean", seen.mean(dim=0)[:, None, None])
        self.register_buffer("deviation", seen.std(dim=0).clamp_min(1e-6)[:, None, None])
        self.error_scale = error_scale
        width = budget.width
        self.gather = nn.Conv2d(seen.shape[1], width, 3, padding=1)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, 2 * width, 1), nn.GELU(), nn.Conv2d(2 * width, width, 1))
            for _ in range(budget.depth)
        )
        self.out = nn.Conv2d(width, block_length, 1)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, seen: torch.Tensor) -> torch.Tensor:
        hidden = self.gather((seen - self.mean) / self.deviation)
        for layer in self.layers:
            hidden = hidden + layer(hidden)
        return self.error_scale * self.out(hidden)


def train_inverter(
    images: Sequence[np.ndarray],
    observe: Observe,
    linear: LinearDecoder,
    *,
    features: Features = lambda grid: grid,
    observe_held_out: Observe | None = None,
    length: int | None = None,
    budget: Budget | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
) -> LearnedInverter:
    """Plain grids (down, across, L) of the attacker's own and a way to see them -> trained inverter.

    A tenth of the images is held out, and the network with the least error on them is returned. This may be the
    untrained one, which equals the linear estimate.

    Args:
        images: at least two grids, at least `crop_in_blocks` on each side. They must not be the victims.
        observe: makes what would be seen of an image. Where the victims' key or drift is unknown, it draws one from
            the generator.
        linear: from features to pixels, the estimate to refine.
        features: the form in which a block is shown to the network and to `linear`; as it is seen, by default.
        observe_held_out: the same for the images held out, with other keys; `observe` itself by default.
        length: L, where the grids have more than pixels: (down, across, L + any), all of which `observe` gets.
        budget: how long to train; `Budget()` by default.
        seed: of crops, keys and weights.
        device: where the network is trained; what is seen is made by the processor, and the result runs there.
        progress: called with the number of updates and the PSNR on the held-out images, at each check.

    Raises:
        ValueError: there are fewer than two images, or one is smaller than a crop.
    """
    budget = budget or Budget()
    _check_images(images, budget)
    rng = np.random.default_rng(seed)
    num_held_out = max(1, len(images) // 10)
    look = observe_held_out or observe
    length = length or images[0].shape[-1]
    held_out = [(grid[..., :length], features(look(grid, rng))) for grid in images[:num_held_out]]
    own = images[num_held_out:]
    start_error = float(np.mean([np.mean((linear.estimate(seen) - grid) ** 2) for grid, seen in held_out]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        seen = np.concatenate([part.reshape(-1, part.shape[-1]) for _, part in held_out])
        network = _Refiner(torch.from_numpy(seen).float(), start_error**0.5, length, budget).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=budget.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, budget.steps)
    linear_psnr = best_psnr = _psnr(network, linear, held_out)
    best = copy.deepcopy(network)
    for step in range(1, budget.steps + 1):
        _update(
            network,
            optimizer,
            [_crop(own, observe, features, linear, length, budget, rng) for _ in range(budget.batch_size)],
        )
        schedule.step()
        if step % max(1, budget.steps // budget.checks) == 0 or step == budget.steps:
            found = _psnr(network, linear, held_out)
            if found > best_psnr:
                best, best_psnr = copy.deepcopy(network), found
            if progress is not None:
                progress(step, found)
    return LearnedInverter(linear, best.cpu().eval(), features, linear_psnr, best_psnr)


def _update(
    network: _Refiner, optimizer: torch.optim.Optimizer, crops: Sequence[tuple[np.ndarray, np.ndarray]]
) -> None:
    seen, missing = (
        torch.from_numpy(np.stack(part)).to(network.mean).permute(0, 3, 1, 2) for part in zip(*crops, strict=True)
    )
    loss = ((network(seen) - missing) / network.error_scale).square().mean()
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()


def _crop(
    images: Sequence[np.ndarray],
    observe: Observe,
    features: Features,
    linear: LinearDecoder,
    length: int,
    budget: Budget,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """A random crop -> its features (crop, crop, M), and what the linear estimate misses of it (crop, crop, L)."""
    grid, size = images[int(rng.integers(len(images)))], budget.crop_in_blocks
    top, left = (int(rng.integers(side - size + 1)) for side in grid.shape[:2])
    plain = grid[top : top + size, left : left + size]
    seen = features(observe(plain, rng))
    return seen, plain[..., :length] - linear.estimate(seen)


@torch.no_grad()
def _decode(network: nn.Module, linear: LinearDecoder, seen: np.ndarray) -> np.ndarray:
    device = next(network.parameters()).device
    correction = network(torch.from_numpy(seen).float().to(device).permute(2, 0, 1)[None])[0].permute(1, 2, 0)
    return np.clip(linear.estimate(seen) + correction.double().cpu().numpy(), -1.0, 1.0)


def _psnr(network: nn.Module, linear: LinearDecoder, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    errors = [np.mean((_decode(network, linear, seen) - grid) ** 2) for grid, seen in pairs]
    return float(10 * np.log10(4 / np.mean(errors)))


def _check_images(images: Sequence[np.ndarray], budget: Budget) -> None:
    if len(images) < 2:
        raise ValueError(f"expected two images or more, one of which is held out, got {len(images)}")
    least = min(side for grid in images for side in grid.shape[:2])
    if least < budget.crop_in_blocks:
        raise ValueError(f"expected images of at least {budget.crop_in_blocks} blocks a side, a crop, got {least}")
