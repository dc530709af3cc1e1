"""The program: turns a recipe into a run. `python -m train`, also installed as `resnet-jax`."""
