"""`privseg train` and `privseg evaluate`, whose options are dataclasses that scripts share.

Typer hands all arguments on as they are. Several processes: `accelerate launch -m hf_privseg.cli train ...`.
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


def evaluate(context: typer.Context) -> None:
    """Measure the mIoU of models on a labelled data set; privseg evaluate --help lists the options."""
    from ..experiments.evaluation_arguments import evaluation_arguments

    args = evaluation_arguments(context.args, "privseg evaluate")
    from ..experiments.evaluation import evaluate as run_evaluation

    run_evaluation(args)
