"""Trains SETR with Accelerate: the steps of `privseg train`, for a program of your own to change.

    python examples/train_setr.py --dataset data/mine --vit path/to/vit --output_dir outputs/setr
    accelerate launch --config_file examples/accelerate_configs/multi_gpu.yaml examples/train_setr.py ...

The options are those of `privseg train`, whose --help explains them. The loop itself is `hf_privseg.training.train`:
one file, in which an epoch is one function.
"""

from hf_privseg.training.arguments import parse_arguments, run_script
from hf_privseg.training.train_arguments import TrainArguments


def main() -> None:
    args = parse_arguments(TrainArguments, description=__doc__)

    # Here, and not above, so that --help does not wait for torch.
    from hf_privseg.training.train import run_epochs
    from hf_privseg.training.train_setup import build_start, open_data, start_accelerator

    accelerator = start_accelerator(args)  # processes, devices, precision; everything is seeded
    data = open_data(args, accelerator)  # both splits, and a look at their labels
    start = build_start(args, data)  # model and processor
    run_epochs(args, accelerator, data, start)  # evaluates, keeps the best model, goes on where it was killed


if __name__ == "__main__":
    run_script(main)
