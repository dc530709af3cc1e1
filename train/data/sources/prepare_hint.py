"""The error for a TFDS data set that is not prepared, with the commands that prepare it."""

import difflib
from itertools import islice
from pathlib import Path

from train.config import ConfigError
from train.data.sources.listing import is_image_name, subfolders

BUILT_IN = ("csv", "digits", "folder", "npz", "synthetic")


class NotPrepared(ConfigError):
    """A TFDS data set is not prepared; the message has the commands to prepare and train on it."""

    def __init__(self, name: str, data_dir: Path) -> None:
        super().__init__(how_to_prepare(name, data_dir))
        self.for_eval = how_to_prepare(name, data_dir, train=False)
        """The message for an evaluation."""


def tfds_sets(folder: Path) -> list[str]:
    """Sorted names of the TFDS data sets in a folder: NAME/VERSION or NAME/CONFIG/VERSION."""
    found = [*folder.glob("*/*/dataset_info.json"), *folder.glob("*/*/*/dataset_info.json")]
    return sorted({path.relative_to(folder).parts[0] for path in found})


def how_to_prepare(name: str, data_dir: Path, *, train: bool = True) -> str:
    """The message for a data set that is not in `data_dir`.

    If TFDS knows the data set, the message has the three commands that prepare it and train on it.

    Args:
      name: "cifar10", or with a config and a version.
      train: whether the data set is needed for training; otherwise, for evaluation.
    """
    import tensorflow_datasets as tfds

    known = tfds.list_builders(with_community_datasets=False)  # offline
    prepared = tfds_sets(data_dir)
    if not prepared and _holds_photos(data_dir):
        command = "To train on them: resnet-jax train folder" if train else "To evaluate them:"
        also = ", or --data.name folder with this recipe" if train else ""
        name_it = "" if train else " --data.name folder"
        return (
            f"data.name {name!r}: {data_dir} is a folder of photos, not of TFDS data sets. "
            f"{command}{name_it} --data.dir {data_dir}{also}"
        )
    there = f"{data_dir} holds {', '.join(prepared) or 'no data set'}"
    base = name.partition(":")[0].partition("/")[0]
    if base not in known:
        names = [*BUILT_IN, *prepared]
        near = difflib.get_close_matches(base, [*names, *known], n=3, cutoff=0.75)
        hint = f"did you mean {', '.join(near)}? " if near else ""
        return (
            f"data.name {name!r}: {hint}choose {', '.join(BUILT_IN)} or a TFDS data set "
            f"({there}; --data.dir DIR reads another folder)"
        )
    manual = (
        f"\n(first put ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar into "
        f"{data_dir / 'downloads' / 'manual'})"
        if base == "imagenet2012"
        else ""
    )
    does = "Three lines prepare it and train on it" if train else "Two lines prepare it"
    last = f"\n  resnet-jax train {_recipe(name)} --data.dir {data_dir}" if train else ""
    return (
        f"data.name {name!r} is not prepared: {there}. {does}; if it is prepared elsewhere, "
        f"--data.dir DIR reads that folder.{manual}\n"
        "  pip install -e '.[prepare]'\n"
        '  python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder({name!r}, data_dir={str(data_dir)!r}, file_format='array_record')"
        f'.download_and_prepare()"{last}'
    )


def _holds_photos(folder: Path) -> bool:
    """Whether a folder has images in CLASS/ or SPLIT/CLASS/; it looks into a few folders only."""
    if not folder.is_dir():
        return False
    outer = [path for path in subfolders(folder)[:5] if path.name != "downloads"]
    inner = [path for path in outer for path in subfolders(path)[:5]]
    files = (path for place in (*outer, *inner) for path in islice(place.iterdir(), 100))
    return any(is_image_name(path.name) for path in files)


def _recipe(name: str) -> str:
    """The first recipe for a data set, or the options for any other recipe."""
    from train.recipes import all_recipes

    fitting = [recipe for recipe, config in all_recipes().items() if config.data.name == name]
    return fitting[0] if fitting else f"RECIPE --data.name {name}"
