"""The models of a plan, by closed forms."""

from train.plan.roofline import Roofline
from train.run.memory import Footprint, suggestions


def test_the_longest_is_the_bottleneck():
    line = Roofline(compute=0.02, hbm=0.03, network=0.01, input=0.0)
    assert (line.step, line.bottleneck) == (0.03, "HBM bandwidth")
    assert Roofline(0.04, 0.03, 0.01, 0.02).bottleneck == "compute"
    assert Roofline(0.02, 0.03, 0.05, 0.0).bottleneck == "network"
    slow = Roofline(0.02, 0.03, 0.01, 0.08)
    assert (slow.step, slow.bottleneck) == (0.03, "input")  # the step is the time of the chip only


NOW = Footprint(parameters=10, gradients=10, shared=40, rest=100)


def test_footprint_is_linear():
    assert NOW.at(batch=1, fsdp=1) == 160
    assert NOW.at(batch=0.5, fsdp=4) == 10 + 10 + 40 / 4 + 50


def test_a_smaller_batch_or_more_fsdp():
    """Of 135 GiB 60 are the state: 75 hold 3/4 of the batch. fsdp 4 frees 30, so all fits."""
    scale = 2**30
    now = Footprint(10 * scale, 10 * scale, 40 * scale, 100 * scale)
    found = suggestions(now, 135 * scale, batch_per_chip=128, chips=8, fsdp=1)
    assert found == [
        "--batch_size 768 (about 135.0 GiB per device)",
        "--mesh.fsdp 4 (about 130.0 GiB per device)",
    ]


def test_the_batch_alone():
    """No fsdp frees enough for 128 images; a single chip has no other to share with."""
    # (111 - 60) / 100 of 128 is 65; in eights, 64
    found = suggestions(NOW, 111, batch_per_chip=128, chips=4, fsdp=1)
    assert found == ["--batch_size 256 (about 0.0 GiB per device)"]
    found = suggestions(NOW, 65, batch_per_chip=128, chips=1, fsdp=1)
    assert found == ["--batch_size 6 (about 0.0 GiB per device)"]


def test_a_state_that_does_not_fit():
    """60 bytes of state in 50: fsdp 8 leaves 25 for it, a quarter of the batch for the rest."""
    assert suggestions(NOW, 50, batch_per_chip=128, chips=8, fsdp=1) == [
        "--mesh.fsdp 8 --batch_size 256 (about 0.0 GiB per device)"
    ]
    assert suggestions(NOW, 19, batch_per_chip=128, chips=8, fsdp=1) == []
    assert suggestions(NOW, 50, batch_per_chip=128, chips=8, fsdp=8) == []
