"""`resnet-jax plan`: a training step compiled ahead of time for hardware that is not attached.

Modules:
  planner: the command.
  compile: the compiler's report on a step.
  hlo: facts from the text of an optimised XLA program.
  roofline: a model of the time of a step.
  chips: published figures of chips.
  topology: names of hardware, and JAX devices for them.
  report: the text of a plan.
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
