"""Conditions of the options of mixing, losses, averages and the optimiser."""

from train.config.conditions.base import Condition, is_set

LEARN = (
    Condition(
        ("mix.label_smoothing",),
        "loss.threshold",
        lambda config: config.loss.threshold is None or config.mix.mixes,
        "targets that stay soft",
    ),
    Condition(
        ("mix.smooth_over",),
        "mix.label_smoothing",
        lambda config: config.mix.label_smoothing > 0,
        "label smoothing",
    ),
    Condition(
        ("mix.probability", "mix.per", "mix.off"),
        "mix.mixup",
        lambda config: config.mix.mixes,
        "mix.mixup or mix.cutmix above 0",
    ),
    Condition(
        ("mix.switch",),
        "mix.mixup",
        lambda config: config.mix.mixup > 0,
        "mix.mixup and mix.cutmix, both above 0",
    ),
    Condition(
        ("mix.switch",),
        "mix.cutmix",
        lambda config: config.mix.cutmix > 0 or config.mix.mixup == 0,
        "mix.mixup and mix.cutmix, both above 0",
    ),
    Condition(
        ("mix.erasing_area", "mix.erasing_aspect", "mix.erasing_fill"),
        "mix.erasing",
        lambda config: config.mix.erasing > 0,
        "mix.erasing above 0",
    ),
    Condition(
        ("loss.threshold",), "loss.name", lambda config: config.loss.name == "bce", "loss.name bce"
    ),
    Condition(
        ("loss.reduction",),
        "loss.name",
        lambda config: config.loss.name == "bce" or config.data.multi_label,
        "loss.name bce",
    ),
    Condition(
        ("loss.gamma",), "loss.name", lambda config: config.loss.name == "focal", "loss.name focal"
    ),
    Condition(("loss.l1_on",), "loss.l1", lambda config: config.loss.l1 > 0, "loss.l1 above 0"),
    Condition(("loss.l2_on",), "loss.l2", lambda config: config.loss.l2 > 0, "loss.l2 above 0"),
    Condition(
        ("ema_every",),
        "ema_decay",
        lambda config: config.averages,
        "runs that average their weights (ema_decay or swa_start)",
    ),
    Condition(
        ("ema_rule",),
        "ema_decay",
        lambda config: config.ema_decay > 0 and not config.swa_start,
        "a moving average, with an ema_decay above 0 and no swa_start",
    ),
    Condition(
        ("ema_decay",),
        "swa_start",
        lambda config: not config.swa_start,
        "runs without swa_start, which averages with equal factors",
        is_mistake=True,
    ),
    Condition(
        ("optim.nesterov",),
        "optim.momentum",
        lambda config: config.optim.momentum > 0,
        "a momentum above 0",
    ),
    Condition(
        ("optim.nesterov",),
        "optim.name",
        lambda config: config.optim.name != "lamb" or config.optim.momentum == 0,
        "sgd, adamw, rmsprop and lars",
    ),
    Condition(
        ("optim.beta2", "optim.epsilon"),
        "optim.name",
        lambda config: config.optim.name in ("adamw", "lamb", "rmsprop"),
        "optim.name adamw, lamb and rmsprop",
    ),
    Condition(
        ("optim.trust",),
        "optim.name",
        lambda config: config.optim.name == "lars",
        "optim.name lars",
    ),
    Condition(
        ("optim.power",),
        "optim.schedule",
        lambda config: config.optim.schedule == "polynomial",
        "optim.schedule polynomial",
    ),
    Condition(
        ("optim.floor",),
        "optim.schedule",
        lambda config: config.optim.schedule not in ("step", "constant"),
        "schedules that decay continuously",
    ),
    Condition(
        ("optim.hold",),
        "optim.schedule",
        lambda config: config.optim.schedule in ("cosine", "linear", "polynomial", "one_cycle"),
        "schedules that end at optim.floor",
    ),
    Condition(("optim.cycle",), "optim.hold", is_set("optim", "hold"), "runs with optim.hold"),
    Condition(("optim.cycle_lr",), "optim.cycle", is_set("optim", "cycle"), "optim.cycle"),
    Condition(
        ("optim.scaling",),
        "optim.lr_batch",
        lambda config: config.optim.lr_batch > 0,
        "a rate that is scaled with the batch, optim.lr_batch above 0",
    ),
    Condition(
        ("optim.decay",),
        "optim.name",
        lambda config: config.optim.weight_decay > 0 and config.optim.name not in ("lars", "lamb"),
        "a weight decay above 0 in sgd, adamw and rmsprop",
    ),
    Condition(
        ("optim.milestones", "optim.gamma"),
        "optim.schedule",
        lambda config: config.optim.schedule == "step",
        "optim.schedule step",
    ),
    Condition(
        ("optim.decay_mask",),
        "optim.weight_decay",
        lambda config: config.optim.weight_decay > 0 or config.optim.name in ("lars", "lamb"),
        "a weight decay above 0",
    ),
)
