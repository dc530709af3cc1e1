"""What to do about a TFDS data set that is not prepared."""

import difflib
from pathlib import Path

BUILT_IN = ("digits", "folder", "npz", "synthetic")


def tfds_sets(folder: Path) -> list[str]:
    """Names of the prepared TFDS data sets in a folder: NAME/VERSION or NAME/CONFIG/VERSION."""
    found = [*folder.glob("*/*/dataset_info.json"), *folder.glob("*/*/*/dataset_info.json")]
    return sorted({path.relative_to(folder).parts[0] for path in found})


def how_to_prepare(name: str, data_dir: Path) -> str:
    """The message for a data set that is not in `data_dir`.

    One that TFDS knows comes with the three lines that prepare it and train on it.

    Args:
      name: "cifar10", or with a config and a version.
    """
    import tensorflow_datasets as tfds

    known = tfds.list_builders(with_community_datasets=False)  # offline
    prepared = tfds_sets(data_dir)
    there = f"{data_dir} holds {', '.join(prepared) or 'no data set'}"
    base = name.partition(":")[0].partition("/")[0]
    if base not in known:
        names = [*BUILT_IN, *prepared]
        near = difflib.get_close_matches(base, [*names, *known], n=3, cutoff=0.75)
        hint = f"did you mean {', '.join(near)}? " if near else ""
        return (
            f"data.name {name!r}: {hint}choose {', '.join(BUILT_IN)} or a TFDS data set "
            f"({there}; --data.dir names another place)"
        )
    manual = (
        f"\n(first put ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar into "
        f"{data_dir / 'downloads' / 'manual'})"
        if base == "imagenet2012"
        else ""
    )
    return (
        f"data.name {name!r} is not prepared: {there}. Three lines prepare it and train on it; if "
        f"it is prepared elsewhere, --data.dir DIR names the place.{manual}\n"
        "  pip install -e '.[prepare]'\n"
        '  python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder({name!r}, data_dir={str(data_dir)!r}, file_format='array_record')"
        '.download_and_prepare()"\n'
        f"  resnet-jax train {_recipe(name)} --data.dir {data_dir}"
    )


def _recipe(name: str) -> str:
    """The first recipe for a data set, or how another one takes it."""
    from train.recipes import all_recipes

    fitting = [recipe for recipe, config in all_recipes().items() if config.data.name == name]
    return fitting[0] if fitting else f"RECIPE --data.name {name}"
