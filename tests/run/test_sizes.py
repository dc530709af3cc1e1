"""Batches that are far too large, and images that are too small, are found before compilation."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from resnet_jax import create_model
from tests.runs import tiny
from train.config import ConfigError, ModelConfig, RunConfig
from train.distributed.mesh import make_mesh
from train.run import sizes
from train.run.parts import Run


@pytest.mark.parametrize("name", ["resnet18", "resnet26d", "resnetv2_50", "resnet20_cifar"])
def test_the_outputs_of_the_blocks_are_those_of_the_network(name):
    model = create_model(name, scan=True)
    images = jnp.zeros((1, 64, 64, 3))

    def maps(key):
        return model.backbone.init_with_output(key, images, train=False)[0]

    depths = model.backbone.spec.depths
    stages = list(jax.eval_shape(maps, jax.random.key(0)).values())[-len(depths) :]
    values = sum(n * x.size for n, x in zip(depths, stages, strict=True))
    config = RunConfig(model=ModelConfig(name=name), precision="fp32")
    config = replace(config, data=replace(config.data, image_size=64))
    assert sizes.block_outputs(config) == 4 * values
    assert sizes.block_outputs(replace(config, precision="bf16")) == 2 * values


def test_a_batch_that_cannot_fit_is_refused_with_one_that_may(monkeypatch):
    run = Run(tiny(batch_size=1024), mesh=make_mesh(jax.devices()[:2]))
    image = 4 * (8 * 8 * 8 + 4 * 4 * 16)  # two blocks of 8 and 16 channels, in float32
    assert sizes.block_outputs(run.config) == image
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:2])
    monkeypatch.setattr(sizes, "usable", lambda: 2 * 512 * image)
    sizes.check_memory(run)
    monkeypatch.setattr(sizes, "usable", lambda: 2 * 512 * image - 2)
    with pytest.raises(ConfigError, match=r"^batch_size 1024: .* Try --batch_size 84$"):
        sizes.check_memory(run)


def test_images_smaller_than_the_stride():
    config = RunConfig(model=ModelConfig(name="resnet18"))
    small = replace(config, data=replace(config.data, image_size=31))
    assert sizes.small_images(config) is None
    said = sizes.small_images(small)
    assert said and said.startswith("data.image_size 31 is less than the stride of resnet18, 32 ")
    assert sizes.small_images(tiny()) is None
    one = replace(tiny().data, image_size=1)
    assert "stride of resnet8_cifar, 2 pixels" in str(sizes.small_images(tiny(data=one)))
