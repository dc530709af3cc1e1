"""The help of the program, and the text above the options in the help of each command."""

USAGE = """\
usage: resnet-jax COMMAND ...

  train [RECIPE] [--workdir DIR] [--optim.lr 0.2 ...]   train, or resume the run in DIR
                                                        (RECIPE: digits; DIR: runs/RECIPE)
  eval DIR [--checkpoint best|last|STEP]                evaluate a run; prints one JSON object
  predict DIR IMAGE... [--csv FILE]                     print top-5 classes of each image, with
                                                        the weights of a run,
  predict NAME IMAGE... --weights FILE                  of a file, for the network NAME,
  predict NAME.TAG IMAGE...                             or published by timm
  convert SRC DST [--model NAME]                        write weights of a file or run to a file
  preview RECIPE --data.dir DIR [...]                   write a page of what the network sees
  lr-find RECIPE [--steps 200] [...]                    learning-rate range test: suggests
                                                        --optim.lr, and draws the curve
  plan RECIPE --topology v5e:16x16 [...]                compile the step for other hardware: report
                                                        memory, time and the bottleneck
  bench COMMAND ...                                     measure training, input and memory; compare
                                                        with other systems
  models [PATTERN]                                      list networks; for one name, its layers
  models NAME --init-stats [--plot FILE]                deviations of each block at the start
  recipes [NAME]                                        list recipes; for one name, its options

`resnet-jax COMMAND --help` lists the most used options of a command, `--help-all` lists all.
`resnet-jax --version` prints the versions of this program and of the packages that it uses.
"""

LR_FIND_HELP = """\
Learning-rate range test (Smith 2017): trains the recipe for a few steps while the rate grows from
--lowest to --highest, draws the loss over the rate, and suggests a value of --optim.lr. The last
line of the output is that option.

The rates are values of optim.lr: they are scaled by the batch size as in `train`, and the
suggestion holds for the same --batch_size, network and optimiser. All options of `train` are
accepted; warmup, schedule and averages are not used.
"""

PLAN_HELP = """\
Compiles the recipe's training step ahead of time, without the hardware, and reports memory, time
and the bottleneck: resnet-jax plan imagenet-resnet50 --topology v5e:2x2 --batch_size 512

CHIPS: v4:2x2x1, v5e:2x2, v5p:2x2x1, v6e:2x2, ... or a100-40, a100-80, h100, h200, h200:8.
All options of `train` are accepted too. If the data are not on this machine, give their size:
--data.name synthetic --data.classes N --data.examples N (not needed for ImageNet and CIFAR).
"""

PREVIEW_HELP = """\
Writes a page of what the network sees under these options: the same training images in several
draws, with their labels and mixing weights, beside the view of evaluation.

All options of `train` are accepted too. The defaults below are those of {name}.
"""

TRAIN_HELP = """\
Trains a recipe, or resumes the run in --workdir.

RECIPE: a name of `resnet-jax recipes`, such as cifar10-resnet20 or imagenet-resnet50; the default
is folder if --data.dir is given, else digits. The defaults below are those of {name}.
"""

EVAL_HELP = """\
Evaluates a checkpoint of the run in DIR on the evaluation split of the run's data, or of the data
in --data.dir. The last line of the output is one JSON object. It accepts --checkpoint, --precision,
--data.* and --eval.*. The defaults are the values of the run.
"""

PREDICT_HELP = """\
usage: resnet-jax predict DIR IMAGE... [options]                    with the weights of a run
       resnet-jax predict NAME IMAGE... --weights FILE [options]    with the weights in a file
       resnet-jax predict NAME.TAG IMAGE... [options]               with weights published by timm

Prints the most probable classes of each image. It accepts --weights or --checkpoint, --classes,
--csv, --precision and the options of preprocessing. The defaults are the values of the run, or
those in the .json file of the weights; without such a file, the usual values of the network.
"""

EVAL_COMMON = ("data.dir", "data.eval_split", "eval.batch_size", "eval.crop_fraction", "precision")
