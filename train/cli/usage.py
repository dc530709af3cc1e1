"""What the commands print for --help, above the lists of options."""

USAGE = """\
usage: resnet-jax COMMAND ...

  train [RECIPE] [--workdir DIR] [--optim.lr 0.2 ...]   train, or resume the run in DIR
                                                        (RECIPE: digits; DIR: runs/RECIPE)
  eval DIR [--checkpoint best|last|STEP]                evaluate a run; prints one JSON object
  predict DIR IMAGE... [--csv FILE]                     top-5 classes of each image, by a run,
  predict NAME IMAGE... --weights FILE                  by a network and a file of its weights,
  predict NAME.TAG IMAGE...                             or by those that timm publishes
  convert SRC DST [--model NAME]                        weights of a file or a run to another file
  plan RECIPE --topology v5e:16x16 [...]                the step compiled for hardware that is not
                                                        here: memory, time, bottleneck
  bench COMMAND ...                                     measure: steps, input, memory, beside others
  models [PATTERN]                                      the networks; one name: stage by stage
  recipes                                               the recipes

`resnet-jax COMMAND --help` lists a command's most used options, `--help-all` all of them;
`resnet-jax --version` the versions of this program and of what it uses.
"""

PLAN_HELP = """\
Compiles the recipe's training step for hardware that is not here, and reports its memory, its time
and its bottleneck: resnet-jax plan imagenet-resnet50 --topology v5e:2x2 --batch_size 512

CHIPS: v4:2x2x1, v5e:2x2, v5p:2x2x1, v6e:2x2, ... or a100-40, a100-80, h100, h200, h200:8.
Every option of `train` is accepted too. Data that are not here are planned by their size:
--data.name synthetic --data.classes N --data.examples N (ImageNet and CIFAR need no such options).
"""

TRAIN_HELP = """\
Trains a recipe, or resumes the run in --workdir.

RECIPE: {recipes};
without one, it is folder if --data.dir is given, else digits. The defaults below are those of
{name}.
"""

EVAL_HELP = """\
Evaluates a checkpoint of the run in DIR, on the evaluation split of its data or of those that
--data.dir names. The last line printed is one JSON object. It accepts --checkpoint, --precision,
--data.* and --eval.*; the defaults are the run's own.
"""

PREDICT_HELP = """\
usage: resnet-jax predict DIR IMAGE... [options]                    with the weights of a run
       resnet-jax predict NAME IMAGE... --weights FILE [options]    with a file of weights
       resnet-jax predict NAME.TAG IMAGE... [options]               with timm's

Prints the most probable classes of each image. It accepts --weights or --checkpoint, --classes,
--csv, --precision and what decides how an image is read. The defaults are the run's own, or what is
written beside the weights; where nothing is, what is usual for the network.
"""

EVAL_COMMON = ("data.dir", "data.eval_split", "eval.batch_size", "eval.crop_fraction", "precision")
