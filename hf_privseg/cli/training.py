"""The commands of trainings, whose options are dataclasses that scripts share: `privseg train`.

Typer hands all arguments on as they are. So a training is also started as `accelerate launch -m hf_privseg.cli train`.
"""

import typer

# What these commands are given is read by a parser of their own, --help too.
PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


def train(context: typer.Context) -> None:
    """Train SETR on your own images and classes; privseg train --help lists the options."""
    from ..training.arguments import parse_arguments
    from ..training.train_arguments import DESCRIPTION, TrainArguments

    args = parse_arguments(TrainArguments, description=DESCRIPTION, given=context.args, prog="privseg train")
    from ..training.train import train as run_training

    run_training(args)
