"""The command line. Nothing here imports JAX before a command needs it.

Modules:
  arguments, options: options of a command, from the dataclass that holds them.
  choose_recipe: the recipe that a command line means.
  habits: options of other programs, for messages about unknown options.
  usage: the help texts of the commands.
  convert, predict: the commands of these names.
  tables: the tables of `models` and `recipes`.
"""
