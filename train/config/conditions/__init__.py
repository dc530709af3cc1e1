"""The condition under which each option of `RunConfig` has an effect.

Add a new option to `ALWAYS`, or to the conditions of `data`, `learn` or `model`. Nothing here
imports JAX.
"""

from train.config.conditions.base import Condition, spec_of
from train.config.conditions.data import DATA
from train.config.conditions.learn import LEARN
from train.config.conditions.model import MODEL

__all__ = ["ALWAYS", "CONDITIONS", "Condition", "spec_of"]

ALWAYS = (
    *("duration", "batch_size", "seed", "precision", "swa_start", "scan", "skip_nonfinite"),
    *("patience", "log_every", "compilation_cache"),
    *("model.name", "model.depths", "model.stage_blocks", "model.stage_widths", "model.width"),
    *("model.groups", "model.group_width", "model.reduce_first", "model.stem", "model.stem_width"),
    *("model.stem_pool", "model.stride_at", "model.shortcut", "model.shortcut_kernel"),
    *("model.avg_down", "model.anti_alias", "model.preact", "model.activation"),
    *("model.attention", "model.norm", "model.norm_epsilon", "model.weight_standardization"),
    *("model.output_stride", "model.zero_gamma", "model.kernel_init", "model.drop_path"),
    *("model.zero_conv", "model.norm_bias", "model.head_std", "model.head_bias"),
    *("model.drop_block", "model.block_dropout", "model.dropout", "model.drop_connect"),
    *("init.weights", "data.name", "data.order", "data.balance", "data.image_size", "data.whiten"),
    *("data.threads", "data.workers", "data.resident", "data.stall_seconds"),
    *("augment.scale", "augment.interpolation", "augment.flip", "augment.vertical_flip"),
    *("augment.rotate", "augment.translate", "augment.shear", "augment.zoom", "augment.policy"),
    *("augment.jitter", "augment.grey", "augment.blur", "augment.lighting", "augment.repeats"),
    *("augment.preset", "augment.size_start"),
    *("mix.mixup", "mix.cutmix", "mix.cutout", "mix.erasing"),
    *("loss.name", "loss.class_weights", "loss.l1", "loss.l2"),
    *("optim.name", "optim.lr", "optim.lr_batch", "optim.momentum"),
    *("optim.weight_decay", "optim.clip", "optim.clip_value", "optim.accumulate"),
    *("optim.sam", "optim.schedule", "optim.warmup"),
    *("eval.every", "eval.batch_size", "eval.crop_fraction", "eval.interpolation"),
    *("checkpoint.every", "checkpoint.keep", "checkpoint.best"),
    *("mesh.coordinator", "mesh.processes", "mesh.process_id", "mesh.fsdp", "mesh.fsdp_params"),
)
"""Options that always have an effect, or whose own checks cover the other cases."""

CONDITIONS = (*DATA, *LEARN, *MODEL)
"""Conditions of all other options."""
