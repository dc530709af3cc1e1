"""The command line. JAX is imported only when a command needs it.

Modules:
  train, evaluate, predict, convert, lr_find, preview, plan, bench, models, recipes, version: one
    command each.
  arguments, options: options of a command, from the dataclass that holds them.
  choose_recipe: the recipe or the stored run that a command line selects.
  habits: options of other programs, for messages about unknown options.
  usage: the help texts of the commands.
  init_stats: deviations at the start of a network, for `models`.
  tables: the tables of `models` and `recipes`.
"""
