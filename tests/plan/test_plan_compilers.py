"""`resnet-jax plan` with the compilers of TPUs and GPUs: minutes, where they are installed.

pip install -e '.[tpu,plan-gpu]' && pytest -m slow
"""

import importlib.util
import json
import re

import pytest

from tests.runs import ROOT, resnet_jax

pytestmark = pytest.mark.slow

RECORD = ROOT / "benchmarks/results/plan/plan.jsonl"
SCALARS = 4 * 4
"""Bytes of the sums of loss, top-1, top-5 and count."""


def needs(module: str) -> pytest.MarkDecorator:
    """Skips where a compiler is not installed."""
    try:
        there = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        there = False
    return pytest.mark.skipif(not there, reason=f"{module} is not installed")


@needs("jax_plugins.xla_cuda13")
def test_gpus(tmp_path):
    """Two H200s: cuDNN's three convolutions of each layer, and one sum of the gradients."""
    output = tmp_path / "plan.jsonl"
    options = ["--topology", "h200:2", "--norm_group_size", "device", "--json", str(output)]
    done = resnet_jax("plan", "cifar10-resnet20", *options)
    assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text())["computed"]
    convolutions = found["custom_calls"]
    assert convolutions["__cudnn$convForward"] == convolutions["__cudnn$convBackwardFilter"] == 19
    assert convolutions["__cudnn$convBackwardInput"] == 18  # not to the images
    parameters = found["memory"]["parameters"]
    size = parameters + found["memory"]["statistics"] + SCALARS
    assert found["collectives"]["all-reduce"]["bytes"] == size
    assert found["flops"] / 64 == pytest.approx(6 * 40.6e6, rel=0.1)


@needs("libtpu")
def test_the_suggested_batch_fits():
    """By the compiler that refused the larger one."""
    tried = resnet_jax("plan", "digits", "--topology", "v5e:1x1", "--batch_size", "8388608")
    assert tried.returncode == 0 and "does not fit" in tried.stdout, tried.stderr
    suggested = re.search(r"--batch_size (\d+): about", tried.stdout)
    assert suggested, tried.stdout
    done = resnet_jax("plan", "digits", "--topology", "v5e:1x1", "--batch_size", suggested[1])
    assert done.returncode == 0 and ": fits" in done.stdout, done.stdout


@needs("libtpu")
def test_resnet50_for_a_tpu(tmp_path):
    """ImageNet's recipe by the TPU's own compiler: the kept record, and what it cannot be below."""
    recorded = next(
        line
        for line in map(json.loads, RECORD.read_text().splitlines())
        if line["topology"] == "v5e:2x2"
    )
    output = tmp_path / "plan.jsonl"
    options = ["--topology", "v5e:2x2", "--batch_size", "512", "--json", str(output)]
    done = resnet_jax("plan", "imagenet-resnet50", *options)
    assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text())
    now, then = found["computed"], recorded["computed"]
    same = all(found["versions"][name] == recorded["versions"][name] for name in ("jax", "libtpu"))
    close = 0.01 if same else 0.25  # another compiler may do otherwise
    for name in ("flops", "hbm_bytes", "bytes_accessed"):
        assert now[name] == pytest.approx(then[name], rel=close), name
    assert now["memory"]["peak"] == pytest.approx(then["memory"]["peak"], rel=close)
    reduced = now["collectives"]["all-reduce"]
    assert reduced["bytes"] == pytest.approx(then["collectives"]["all-reduce"]["bytes"], rel=close)
    assert reduced["count"] == pytest.approx(then["collectives"]["all-reduce"]["count"], rel=close)
    parameters, multiply_adds = 25_557_032, 4.09e9  # of the network, for one image
    assert now["memory"]["parameters"] == 4 * parameters
    # The Gram matrix of a widening 1x1's input, and its gradient: of 12.8e6 multiply-adds in each
    # block, 51.4e6 in the projections but the first, 12.8e6 in that one.
    gram = 17 * 12.8e6 + 3 * 51.4e6
    # Forward and both gradients, without the images'
    expected = 6 * multiply_adds - 2 * 118e6 + 4 * gram
    assert now["flops"] / 128 == pytest.approx(expected, rel=0.02)
    assert reduced["bytes"] > 2 * parameters  # a gradient in bfloat16, at least
    assert now["fits"] and found["modelled"]["binds"] == "HBM bandwidth"
