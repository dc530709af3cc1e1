"""`models`: lists the networks, or shows one of them stage by stage."""

from resnet_jax.zoo import ZOO, list_models
from train.cli.arguments import HELP, split
from train.cli.init_stats import FLAGS, init_stats
from train.config import ConfigError


def models(args: list[str]) -> None:
    """Prints the networks that match a pattern, or the layers of the network of that name."""
    from train.cli.tables import near_models, print_model, print_models

    if set(FLAGS) & set(args):
        _init_stats(args)
        return
    if set(HELP) & set(args[:1]):
        print("usage: resnet-jax models [PATTERN | NAME]")
        print("       resnet-jax models NAME --init-stats [options]")
        return
    if len(args) > 1:
        raise ConfigError(f"models takes one pattern, not {len(args)}: quote it ('resnet50*')")
    pattern = args[0] if args else "*"
    if pattern in ZOO:
        print_model(pattern)
    elif names := list_models(pattern):
        print_models(names)
    else:
        near = near_models(pattern)
        hint = f"did you mean {', '.join(near)}? " if near else ""
        raise ConfigError(f"no model matches {pattern!r}; {hint}`resnet-jax models` lists all")


def _init_stats(args: list[str]) -> None:
    """`models NAME --init-stats`."""
    from train.cli.tables import near_models

    names, options = split(args, "the network")
    if len(names) == 1 and names[0] in ZOO:
        init_stats(names[0], [option for option in options if option not in FLAGS])
        return
    near = near_models(names[0]) if names else []
    hint = f"; did you mean {', '.join(near)}?" if near else ""
    raise ConfigError(f"--init-stats needs the name of one network{hint}")
