"""Studies of a recipe: what is found out before a run.

Modules:
  lr_find: the learning-rate range test.
"""
