"""`resnet-jax plan`: the command, its models, and its figures on eight real devices."""

import importlib.util
from dataclasses import replace

import pytest

from tests.runs import tiny
from train.__main__ import main
from train.config import AugmentConfig, ConfigError, DataConfig, MeshConfig, ModelConfig
from train.data.pipeline import train_batches
from train.distributed.mesh import make_mesh
from train.plan.compile import compile_step
from train.plan.planner import PlanArgs, data_facts, images_per_core, model
from train.plan.report import render
from train.plan.roofline import IMAGES_PER_CORE
from train.plan.topology import parse_topology
from train.recipes import get_recipe
from train.run.memory import abstract_batch, memory_in, shard_bytes
from train.run.parts import Run

PARAMETERS, STATISTICS = 20424, 448
"""Bytes of the tiny network's."""
SCALARS = 4 * 4
"""Bytes of the sums of loss, top-1, top-5 and count, which every step adds up over the devices."""


@pytest.fixture(scope="module")
def run(devices) -> Run:
    return Run(tiny(norm_group_size="device"), mesh=make_mesh(devices))


@pytest.fixture(scope="module")
def compiled(run) -> dict:
    computed, text = compile_step(run, "cpu", usable=2**30)
    assert "ENTRY" in text
    return computed


def test_memory(run, compiled):
    """Counted from the shapes: SGD keeps one more copy and a counter; a device has 4 images."""
    memory = compiled["memory"]
    assert memory["parameters"] == PARAMETERS and memory["statistics"] == STATISTICS
    assert memory["optimiser"] == PARAMETERS + 4 and memory["ema"] == 0
    assert memory["batch"] == 4 * (8 * 8 * 1 + 4 + 4)
    assert memory["temporaries"] > PARAMETERS  # the gradients, at least
    assert memory["peak"] == sum(memory[name] for name in memory if name not in ("peak", "usable"))
    assert memory["other"] < 1000  # the new state takes the old one's place
    assert compiled["fits"]


def test_collectives_of_the_step(compiled):
    """With statistics of a device: gradients, running statistics and sums, each once."""
    size = PARAMETERS + STATISTICS + SCALARS
    found = compiled["collectives"]
    assert set(found) == {"all-reduce"}
    assert found["all-reduce"]["bytes"] == size
    assert found["all-reduce"]["sent"] == size * 2 * 7 / 8


def test_collectives_of_global_statistics(devices):
    """The shift and two sums a channel forward, and backward one beside the gradients of scale and
    bias, of 56 channels; no average of the statistics. In bfloat16 the shift is there already.
    """
    computed, _ = compile_step(Run(tiny(), mesh=make_mesh(devices)), "cpu", usable=2**30)
    assert computed["collectives"]["all-reduce"]["bytes"] == PARAMETERS + SCALARS + 4 * 56 * 4


def test_fsdp_gathers_the_parameters_and_nothing_else(devices):
    """Optimiser and EMA are cut in four; of the images no device gets more than its own."""
    config = tiny(ema_decay=0.9, norm_group_size="device", mesh=MeshConfig(fsdp=4))
    computed, _ = compile_step(Run(config, mesh=make_mesh(devices, fsdp=4)), "cpu", usable=2**30)
    memory = computed["memory"]
    assert memory["parameters"] == PARAMETERS
    assert memory["optimiser"] < PARAMETERS / 4 + 100
    assert memory["ema"] < (PARAMETERS + STATISTICS) / 4 + 200
    found = computed["collectives"]
    assert set(found) == {"all-reduce", "all-gather"}
    assert PARAMETERS - 100 < found["all-gather"]["bytes"] <= PARAMETERS
    assert found["all-reduce"]["bytes"] == PARAMETERS + STATISTICS + SCALARS


def test_the_batch_is_the_pipelines(run):
    """`abstract_batch` has the shapes and types of a real batch."""
    config = run.config
    options = {"seed": 0, "batch_size": config.batch_size, "start": 0, "stop": 1}
    real = next(train_batches(run.splits.train, config.data, config.augment, **options))
    for name, shape in abstract_batch(run).items():
        assert (real[name].shape, real[name].dtype) == (shape.shape, shape.dtype), name
    assert shard_bytes(abstract_batch(run)) * 8 == 32 * (64 + 8)


COMPUTED = {
    "fits": True,
    "memory": {
        **{"parameters": 2**20, "statistics": 0, "optimiser": 2**20, "ema": 0, "batch": 2**10},
        **{"temporaries": 2**30, "other": 0, "peak": 2**30, "usable": 2**33},
    },
    "flops": 197e12 * 0.010,
    "flops_of": "the program",
    "bytes_accessed": 1e9,
    "hbm_bytes": 819e9 * 0.020,
    "collectives": {"all-reduce": {"count": 1, "bytes": 1, "sent": 200e9 * 0.005}},
}
"""On a v5e:16x16: 10 ms of compute, 20 of HBM, 5 of network."""


@pytest.fixture
def photos(devices) -> Run:
    """2,560 images a step, 90 epochs of 1,281,167."""
    config = replace(get_recipe("imagenet-resnet50"), batch_size=2560)
    splits = data_facts(config.data)
    return Run(config, mesh=make_mesh(devices), splits=splits)


def test_model_by_closed_forms(photos):
    found = model(photos, parse_topology("v5e:16x16"), COMPUTED, 500.0)
    seconds = found["seconds"]
    assert seconds["compute"] == pytest.approx(0.010) and seconds["hbm"] == pytest.approx(0.020)
    assert seconds["network"] == pytest.approx(0.005) and seconds["step"] == seconds["hbm"]
    assert found["images_per_second"] == pytest.approx(2560 / 0.020)
    assert found["images_per_second_per_chip"] == pytest.approx(500)
    assert found["epochs_per_hour"] == pytest.approx(128_000 * 3600 / 1_281_167)
    assert found["steps"] == -(-90 * 1_281_167 // 2560)
    assert found["hours"] == pytest.approx(found["steps"] * 0.020 / 3600)
    assert found["images_per_second_per_host"] == pytest.approx(2000)  # four chips
    assert found["cores_per_host"] == pytest.approx(4)
    assert found["binds"] == "HBM bandwidth"


def test_float32_and_a_slow_host(photos):
    """A GPU's float32 runs at half the rate; 112 cores at 1 image/s each cannot follow."""
    fp32 = Run(replace(photos.config, precision="fp32"), mesh=photos.mesh, splits=photos.splits)
    found = model(fp32, parse_topology("h200:8"), COMPUTED, 1.0)
    assert found["seconds"]["compute"] == pytest.approx(1.97e12 / 494.7e12)
    assert found["seconds"]["input"] == pytest.approx(2560 / 112)
    assert found["binds"] == "input"
    unknown = model(fp32, parse_topology("h200:8"), COMPUTED, None)
    assert unknown["cores_per_host"] is None and unknown["binds"] == "compute"


def test_report(photos):
    topology = parse_topology("v5e:16x16")
    found = {
        **{"recipe": "imagenet-resnet50", "network": "resnet50", "precision": "bf16"},
        **{"batch_size": 2560, "batch_per_chip": 10, "topology": "v5e:16x16", "fsdp": 1},
        **{
            "platform": "tpu",
            "chips": 256,
            "hosts": 64,
            "versions": {"jax": "1", "libtpu": "2", "flax": "3"},
        },
        "computed": COMPUTED,
        "modelled": model(photos, topology, COMPUTED, 500.0),
    }
    text = render(found)
    lines = text.splitlines()
    assert lines[0] == (
        "imagenet-resnet50: resnet50, bf16, batch 2560 on v5e:16x16 "
        "(256 chips, 64 hosts, 10 images a chip)"
    )
    assert "computed by XLA's compiler (jax 1, libtpu 2), for one chip and one step" in lines
    assert "  memory          1.00 GiB of 8.00 GiB (12%): fits" in lines
    assert "  FLOPs           1.97 TFLOP, 197 GFLOP an image (of the program)" in lines
    assert "  step        20.00 ms  128,000 images/s, 500 a chip" in lines
    assert (
        "  epochs      359.7 /h  of 1,281,167 examples; the run's 45,042 steps: 15.0 min" in lines
    )
    assert "  input       2,000 /s  images for each host: 4 of its 112 CPUs at 500 JPEGs/s" in text
    assert lines[-1] == "bottleneck: HBM bandwidth"


def test_what_does_not_fit(photos):
    """The compiler ran out of memory: the report has the memory it needs, and a batch that fits."""
    message = (
        "RESOURCE_EXHAUSTED: E1000: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (31.50G) exceeds available HBM (15.75G). HLO module: jit_step."
    )
    peak, usable = memory_in(message)
    assert (peak, usable) == (int(31.5 * 2**30), int(15.75 * 2**30))
    assert memory_in("RESOURCE_EXHAUSTED: no room") == (None, None)
    state = {"parameters": 0, "statistics": 0, "optimiser": 0, "ema": 0, "batch": 0}
    computed = {
        "fits": False,
        "memory": {**state, "peak": peak, "usable": usable},
        "compiler_says": message,
    }
    config = replace(photos.config, batch_size=512)
    run = Run(config, mesh=photos.mesh, splits=photos.splits)
    modelled = model(run, parse_topology("v5e:2x2"), computed, None)
    assert modelled["binds"] == "memory capacity"
    assert modelled["suggestions"] == ["--batch_size 256 (about 15.8 GiB per device)"]
    found = {
        **{"recipe": "r", "network": "n", "precision": "bf16", "batch_size": 512, "fsdp": 1},
        **{"batch_per_chip": 128, "topology": "v5e:2x2", "chips": 4, "hosts": 1, "versions": {}},
        "platform": "tpu",
        **{"computed": computed, "modelled": modelled},
    }
    text = render(found)
    assert "31.50 GiB of 15.75 GiB (200%): does not fit" in text
    assert text.endswith("  --batch_size 256 (about 15.8 GiB per device)")


def test_images_that_the_network_does_not_take(devices):
    config = tiny(model=ModelConfig(name="lenet5"))
    with pytest.raises(ConfigError, match=r"lenet5 at data\.image_size 8: LeNet-5 needs images"):
        compile_step(Run(config, mesh=make_mesh(devices)), "cpu", usable=2**30)


def test_data_that_are_not_on_disk():
    known = data_facts(DataConfig(name="imagenet2012:5.1.0", dir="/nowhere"))
    assert (len(known.train), len(known.eval)) == (1_281_167, 50_000)
    assert len(known.train.class_names) == 1000
    given = data_facts(DataConfig(name="synthetic", classes=37, examples=3680))
    assert len(given.train) == 3680 and len(given.train.class_names) == 37
    assert len(data_facts(DataConfig(name="digits")).train) == 1438
    size = "--data.name synthetic --data.classes N --data.examples N$"
    for config in (
        DataConfig(name="folder"),
        DataConfig(name="cifar10", dir="/x", train_split="train[:9]"),
    ):
        with pytest.raises(ConfigError, match=size):
            data_facts(config)


def test_images_per_core():
    photos = PlanArgs(get_recipe("imagenet-resnet50"))
    assert images_per_core(photos) == IMAGES_PER_CORE == 770
    assert images_per_core(replace(photos, images_per_core=9.0)) == 9
    small = replace(photos.config, augment=AugmentConfig(crop="pad"))
    assert images_per_core(PlanArgs(small)) is None


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "the recipe is missing: resnet-jax plan RECIPE --topology CHIPS"),
        (["nothing"], "unknown recipe 'nothing'"),
        (["digits"], "--topology is missing: choose a TPU with a shape (v4:2x2x1, v5e:2x2"),
        (["digits", "--topology", "v9"], "topology 'v9': choose a TPU with a shape (v4:2x2x1"),
        (["digits", "--topology", "v5e:3x3"], "topology 'v5e:3x3': choose from v5e:1x1, v5e:2x2"),
        (
            ["digits", "--topology", "v5e:4x4", "--batch_size", "100"],
            "batch_size 100: not divisible by the 16 chips of v5e:4x4; choose a multiple of "
            "16, such as 96",
        ),
        (
            ["folder", "--topology", "v5e:2x2"],
            "give their size: --data.name synthetic --data.classes N --data.examples N",
        ),
        (
            ["folder", "--topology", "v5e:2x2", "--classes", "37", "--examples", "9"],
            "unknown option --classes: did you mean --data.classes 37?",
        ),
        (
            ["folder", "--topology", "v5e:2x2", "--examples", "9"],
            "unknown option --examples: did you mean --data.examples 9?",
        ),
        (
            ["folder", "--topology", "v5e:2x2", "--data.classes", "37"],
            "--data.classes 37 has no effect with data.name folder: it belongs to synthetic data "
            "(--data.name synthetic)",
        ),
        (
            ["digits", "--topology", "h200", "--json", "/no/such/x"],
            "folder /no/such does not exist",
        ),
        (["digits", "--topology", "h200", "--images_per_core", "0"], "must be positive"),
    ],
)
def test_mistakes_are_told_before_anything_is_compiled(args, message, capsys):
    assert main(["plan", *args]) == 2
    assert message in capsys.readouterr().err


def test_a_missing_compiler_is_named(monkeypatch):
    """Of a chip whose compiler is not installed, the extra that brings it."""
    from train.plan import topology

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for chip, extra in (("v5e:2x2", "tpu"), ("h200", "plan-gpu")):
        with pytest.raises(ConfigError, match=rf"pip install -e '\.\[{extra}\]'"):
            topology.check_compiler(parse_topology(chip).chip)
