"""`resnet-jax plan`: compiles a training step ahead of time, without the chip.

Modules:
  planner: options of the command, and the steps of a plan.
  compile: the compiler's figures for a step.
  hlo: figures from the text of an optimised XLA program.
  roofline: a model of the time of a step.
  chips: published figures of chips.
  topology: names of hardware, and JAX devices for them.
  report: a plan as text.
"""

from typing import TYPE_CHECKING

from train.lazy import lazy_names

if TYPE_CHECKING:
    from train.plan.planner import PlanArgs as PlanArgs
    from train.plan.planner import plan as plan

__getattr__ = lazy_names(
    __name__,
    {
        "planner": ["PlanArgs", "plan"],
    },
)
