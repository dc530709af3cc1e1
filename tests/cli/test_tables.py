"""train/cli/tables.py, and the commands that print its tables."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from resnet_jax.zoo import ZOO, image_size
from tests.resnet_jax.test_summary import GIGA, PARAMETERS
from tests.runs import ROOT, environment
from train.__main__ import main
from train.cli.tables import count
from train.config.serialize import flatten, to_json
from train.inference.predict import Answer, Prediction
from train.inference.predictions import print_answers
from train.recipes import all_recipes, describe, get_recipe, modules


def answer(capsys, *args: str) -> str:
    """The output of a command, which must succeed without warnings."""
    assert main(args) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def rows(text: str) -> list[list[str]]:
    """The cells of each row of a table, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


def number(text: str) -> float:
    return float(text.replace(",", ""))


NETWORKS = ROOT / "train" / "cli" / "networks.json"


def write_networks() -> None:
    """The counts of all networks: `python -m tests.cli.test_tables`."""
    lines = (f" {json.dumps(name)}: {json.dumps(count(name))}" for name in ZOO)
    NETWORKS.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def test_the_counts_that_are_kept_are_those_of_the_networks():
    assert json.loads(NETWORKS.read_text("utf-8")) == {name: count(name) for name in ZOO}


def test_models_does_not_import_jax():
    code = (
        "import sys; from train.__main__ import main; main(['models']); print('jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment())
    assert done.stdout.decode().splitlines()[-1] == "False", done.stderr.decode()


def test_a_network_that_is_not_in_the_file_is_counted(capsys, monkeypatch):
    monkeypatch.setattr("train.cli.tables._counts", dict)
    assert rows(answer(capsys, "models", "resnet8_cif*"))[0][3] == "75,290"


def test_models_lists_every_network(capsys):
    text = answer(capsys, "models")
    table = {row[0]: row[1:] for row in rows(text)}
    assert list(table) == list(ZOO)
    for name, (image, classes, parameters, _, _) in table.items():
        small = name.endswith("_cifar") or name == "lenet5"
        assert (image, classes) == (str(image_size(name)), "10" if small else "1000")
        if name in PARAMETERS:
            assert parameters == f"{PARAMETERS[name]:,}"
    assert set(PARAMETERS) <= set(table)
    sizes = {"resnet50": "224", "resnet20_cifar": "32", "lenet5": "32", "resnetv2_152x4_bit": "480"}
    assert {name: table[name][0] for name in sizes} == sizes
    assert {name: float(table[name][3]) for name in GIGA} == GIGA
    sources = {"resnet50": "He 2019, B", "resnet50_v1": "He 2016a", "resnet34c": "He 2019, C"}
    sources |= {"resnet18d": "He 2019, D", "resnetv2_101": "He 2016b", "resnet18": "He 2016a"}
    sources |= {"plain34": "He 2016a, plain", "resnetv2_1001_cifar": "He 2016b"}
    sources |= {"lenet5": "LeCun 1998", "resnetrs50": "Bello 2021", "resnet50_gn": "Wu 2018"}
    sources |= {"resnext50_32x4d": "Xie 2017", "resnext50d_32x4d": "Xie 2017; He 2019, D"}
    sources |= {"wide_resnet50_2": "Zagoruyko 2016", "wrn28_10_cifar": "Zagoruyko 2016"}
    sources |= {"seresnet18": "Hu 2018", "senet154": "Hu 2018", "resnetblur50": "Zhang 2019"}
    sources |= {"ecaresnet26t": "Wang 2020; timm", "resnetaa50d": "Zhang 2019; He 2019, D"}
    sources |= {"resnet50t": "timm", "resnet50s": "timm", "test_resnet": "timm"}
    sources |= {"resnetv2_50x1_bit": "Kolesnikov 2020", "resnext29_8x64d_cifar": "Xie 2017"}
    assert {name: table[name][4] for name in sources} == sources
    assert "multiply-adds" in text


@pytest.mark.parametrize(
    "pattern, names",
    [
        ("resnet18*", ["resnet18", "resnet18c", "resnet18d"]),
        ("plain?8", ["plain18"]),
        ("resnet8_cif*", ["resnet8_cifar"]),
    ],
)
def test_models_of_a_pattern(capsys, pattern, names):
    table = rows(answer(capsys, "models", pattern))
    assert [row[0] for row in table] == names
    assert [len(row) for row in table] == [6] * len(names)


@pytest.mark.parametrize(
    "pattern, near",
    [
        ("resnet51", "did you mean resnet50"),
        ("RESNET50", "did you mean resnet50"),
        ("resnet50_cfar", "resnet56_cifar"),
        ("wideresnet50*", "did you mean wide_resnet50_2"),
        ("wrn28", "did you mean wrn28_10_cifar"),
        ("efficientnet_b0", ""),
        ("nothing*", ""),
    ],
)
def test_pattern_that_nothing_matches(capsys, pattern, near):
    assert main(["models", pattern]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.startswith(f"error: no model matches {pattern!r}")
    assert err.endswith("`resnet-jax models` lists all\n")
    assert near in err and ("did you mean" in err) == bool(near)


def blocks(text: str) -> dict[str, dict]:
    """The rows of one network's table by block; a block's layers are lines of one cell."""
    found: dict[str, dict] = {}
    for block, layer, output, parameters, flops, statistics in rows(text):
        if block:
            numbers = {"parameters": number(parameters), "flops": number(flops)}
            found[block] = {"output": output, "layers": [], **numbers}
            found[block]["statistics"] = number(statistics)
        if layer:
            found[list(found)[-1]]["layers"].append(layer)
    return found


def test_resnet50_stage_by_stage(capsys):
    text = answer(capsys, "models", "resnet50")
    assert text.splitlines()[0].strip() == "resnet50"
    found = blocks(text)
    stages = [f"stage{i}/block{b}" for i, n in enumerate("3463", 1) for b in ("1", f"2..{n}")]
    assert list(found) == ["stem", *stages, "head", "total"]
    assert [found[name]["output"] for name in ["stem", *stages[::2], "head"]] == [
        "112 x 112 x 64",
        "56 x 56 x 256",
        "28 x 28 x 512",
        "14 x 14 x 1024",
        "7 x 7 x 2048",
        "1000",
    ]
    assert found["stem"]["layers"] == ["7x7/2, 64, norm"]
    assert found["stage2/block1"]["layers"] == [
        "1x1, 128, norm",
        "3x3/2, 128, norm",
        "1x1, 512, norm",
        "1x1/2, 512 (shortcut), norm",
    ]
    assert found["stage2/block2..4"]["layers"] == [
        "1x1, 128, norm",
        "3x3, 128, norm",
        "1x1, 512, norm",
    ]
    assert found["head"]["layers"] == ["average pool, dense 1000"]


def test_resnet50_by_hand(capsys):
    found = blocks(answer(capsys, "models", "resnet50"))
    # kernels, and scale and bias of each norm
    stem = 7 * 7 * 3 * 64 + 2 * 64
    first = 64 * 64 + 9 * 64 * 64 + 64 * 256 + 64 * 256 + 2 * (64 + 64 + 256 + 256)
    other = 1024 * 256 + 9 * 256 * 256 + 256 * 1024 + 2 * (256 + 256 + 1024)
    head = 2048 * 1000 + 1000
    assert found["stem"]["parameters"] == stem
    assert found["stage1/block1"]["parameters"] == first
    assert found["stage3/block2..6"]["parameters"] == 5 * other
    assert found["head"]["parameters"] == head
    # a multiply-add for each kernel's number and place
    assert found["stem"]["flops"] == round(7 * 7 * 3 * 64 * 112 * 112 / 1e6, 1)
    kernels = 1024 * 256 + 9 * 256 * 256 + 256 * 1024
    assert found["stage3/block2..6"]["flops"] == round(5 * kernels * 14 * 14 / 1e6, 1)
    assert found["head"]["flops"] == 2.0
    # mean and variance
    assert found["stem"]["statistics"] == 2 * 64
    assert found["stage3/block2..6"]["statistics"] == 5 * 2 * (256 + 256 + 1024)
    assert found["head"]["statistics"] == 0


@pytest.mark.parametrize(
    "name, parameters, flops, statistics",
    [
        ("resnet50", 25_557_032, 4089.2, 53_120),
        ("resnet18", 11_689_512, 1814.1, 9_600),
        ("resnet20_cifar", 269_722, 40.6, 1_376),
    ],
)
def test_totals_are_those_of_the_rows(capsys, name, parameters, flops, statistics):
    found = blocks(answer(capsys, "models", name))
    total = found.pop("total")
    assert (total["parameters"], total["statistics"]) == (parameters, statistics)
    assert total["flops"] == flops
    for column in ("parameters", "statistics"):
        assert sum(block[column] for block in found.values()) == total[column]
    assert sum(block["flops"] for block in found.values()) == pytest.approx(flops, abs=0.5)


def test_variants_show_where_they_differ(capsys):
    v1 = blocks(answer(capsys, "models", "resnet50_v1"))
    assert v1["stage2/block1"]["layers"][:2] == ["1x1/2, 128, norm", "3x3, 128, norm"]
    d = blocks(answer(capsys, "models", "resnet50d"))
    assert d["stem"]["layers"] == ["3x3/2, 32, norm", "3x3, 32, norm", "3x3, 64, norm"]
    assert d["stage2/block1"]["layers"][-1] == "1x1, 512 (shortcut), norm"  # pooled before
    v2 = blocks(answer(capsys, "models", "resnetv2_18"))
    assert v2["stem"]["layers"] == ["7x7/2, 64"]
    assert v2["stage1/block2"]["layers"] == ["norm", "3x3, 64, norm", "3x3, 64"]
    cifar = blocks(answer(capsys, "models", "resnet20_cifar"))
    assert cifar["stage2/block1"]["layers"] == ["3x3/2, 32, norm", "3x3, 32, norm"]  # shortcut A


def test_attention_is_at_the_end_of_the_branch(capsys):
    se = blocks(answer(capsys, "models", "seresnet50"))
    assert se["stage2/block1"]["layers"] == [
        "1x1, 128, norm",
        "3x3/2, 128, norm",
        "1x1, 512, norm, squeeze-excite 32",
        "1x1/2, 512 (shortcut), norm",
    ]
    assert se["stage2/block2..4"]["output"] == "28 x 28 x 512"
    assert se["stage2/block2..4"]["layers"][-1] == "1x1, 512, norm, squeeze-excite 32"
    assert se["head"]["layers"] == ["average pool, dense 1000"]
    eca = blocks(answer(capsys, "models", "ecaresnet50d"))
    assert eca["stage1/block2..3"]["layers"][-1] == "1x1, 256, norm, channel attention 5"
    next_ = blocks(answer(capsys, "models", "resnext50_32x4d"))
    assert next_["stage1/block1"]["layers"][1] == "3x3, groups 32, 128, norm"
    lenet = blocks(answer(capsys, "models", "lenet5"))
    assert lenet["conv1"]["layers"] == ["5x5, 6"] and lenet["total"]["parameters"] == 62_006


def test_recipes_lists_every_recipe(capsys):
    text = answer(capsys, "recipes")
    found: list[list[str]] = []
    for row in rows(text):  # a long cell has several lines
        if row[0]:
            found.append(row)
        else:
            found[-1] = [" ".join(filter(None, x)) for x in zip(found[-1], row, strict=True)]
    expected = [
        [
            *(name, c.model.name, c.data.name, c.duration, str(c.batch_size)),
            *(describe(name).expected, describe(name).measured),
        ]
        for name, c in all_recipes().items()
    ]
    assert found == expected
    row = ["cifar10-resnet56", "resnet56_cifar", "cifar10", "64000st", "128", "error 6.97 %", "no"]
    assert row in expected
    for module in modules():
        assert module.__doc__.partition("\n")[0] in text


def test_one_recipe_is_printed_whole_with_what_differs_from_its_parent(capsys):
    text = answer(capsys, "recipes", "rsb-a2")
    assert "What differs from rsb-a1 (from imagenet-resnet50):" in text
    for row in (
        ["duration", "600ep", "300ep"],
        ["mix.mixup", "0.2", "0.1"],
        ["optim.weight_decay", "0.01", "0.02"],
        ["optim.weight_decay", "0.02"],
        ["optim.name", "lamb"],
        ["expected", "top-1 79.83 %"],
        ["command", "resnet-jax train rsb-a2 --data.dir TFDS_DIR"],
    ):
        assert row in rows(text)
    options = [row[0] for row in rows(text) if len(row) == 2]
    assert set(flatten(to_json(get_recipe("rsb-a2")))) <= set(options)
    text = answer(capsys, "recipes", "cifar10-resnet20-45k")
    assert ["data.train_split", "train", "train[:45000]"] in rows(text)
    text = answer(capsys, "recipes", "digits")
    assert "What differs from the defaults:" in text
    assert ["model.zero_gamma", "as the network's name says", "False"] in rows(
        answer(capsys, "recipes", "cifar10-resnet20")
    )


def test_guesses_of_each_image(capsys):
    print_answers(
        [
            Answer(Path("photos/a.jpg"), [Prediction("cat", 0.8754), Prediction("dog", 0.1246)]),
            Answer(Path("b.png"), [Prediction("dog", 1.0), Prediction("cat", 0.0)]),
            Answer(Path("c.png"), [], "not an image"),
        ]
    )
    out = capsys.readouterr().out
    assert rows(out) == [
        ["photos/a.jpg", "cat 87.5%", "dog 12.5%"],
        ["b.png", "dog 100.0%", "cat 0.0%"],
        ["c.png", "not read", ""],
    ]
    head = next(line for line in out.splitlines() if "top-" in line)
    assert head.strip("┃").replace("┃", " ").split() == ["image", "top-1", "top-2"]


@pytest.mark.parametrize("name", ["cat [grey].jpg", "a[/].jpg", "[red]", "a:cat:.jpg"])
def test_names_that_look_like_markup_are_printed_as_they_are(capsys, name):
    print_answers([Answer(Path(name), [Prediction(name, 1.0)])])
    assert rows(capsys.readouterr().out) == [[name, f"{name} 100.0%"]]


def test_help_of_models(capsys):
    for flag in ("-h", "--help"):
        assert answer(capsys, "models", flag).startswith("usage: resnet-jax models")


if __name__ == "__main__":
    write_networks()
