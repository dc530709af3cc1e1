"""train/runtime.py: a start without a home directory, or with one that is read-only."""

import os
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from resnet_jax.home import expand
from train.config import ConfigError
from train.runtime import use_compilation_cache

OPTIONS = (
    "jax_enable_compilation_cache",
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch) -> Iterator[None]:
    before = {name: getattr(jax.config, name) for name in OPTIONS}
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_by_default_it_is_in_the_home_directory(tmp_path, capsys):
    use_compilation_cache(None)
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / ".cache" / "resnet-jax")
    assert (tmp_path / ".cache" / "resnet-jax").is_dir() and jax.config.jax_enable_compilation_cache
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("home", ["", None])
def test_without_a_home_directory_it_is_off(home, monkeypatch, capsys):
    if home is None:  # and no entry in the list of users
        monkeypatch.delenv("HOME")
        monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    else:
        monkeypatch.setenv("HOME", home)
    use_compilation_cache(None)
    assert not jax.config.jax_enable_compilation_cache
    err = capsys.readouterr().err
    assert err.startswith("warning: compiled programs cannot be cached for the next start (")
    assert "the home directory is not known (HOME is not set)" in err and err.count("\n") == 1


def test_a_home_directory_that_is_none(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    use_compilation_cache(None)
    assert not jax.config.jax_enable_compilation_cache
    assert "file/.cache/resnet-jax: Not a directory)" in capsys.readouterr().err


def test_a_requested_folder_that_is_unavailable_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"compilation_cache: .*Not a directory"):
        use_compilation_cache(str(tmp_path / "file" / "cache"))
    monkeypatch.setenv("HOME", "")
    with pytest.raises(ConfigError, match="compilation_cache: '~/c': the home directory is not kn"):
        use_compilation_cache("~/c")


def test_a_read_only_cache_is_read_and_not_written(tmp_path, monkeypatch):
    """JAX would warn of each program that it cannot write."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    use_compilation_cache(None)
    assert jax.config.jax_enable_compilation_cache
    assert jax.config.jax_persistent_cache_min_compile_time_secs == float("inf")


def test_off_and_on_again(tmp_path):
    use_compilation_cache("")
    assert not jax.config.jax_enable_compilation_cache
    use_compilation_cache("~/mine")
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mine")
    assert jax.config.jax_enable_compilation_cache


@pytest.mark.parametrize(
    "path, expanded",
    [
        ("~", "{home}"),
        ("~/a", "{home}/a"),
        ("~1.jpg", "~1.jpg"),
        ("~$a.doc", "~$a.doc"),
        ("a/~", "a/~"),
        ("/a", "/a"),
    ],
)
def test_what_a_tilde_stands_for(path, expanded, tmp_path):
    assert expand(path) == Path(expanded.format(home=tmp_path))
    assert expand(Path(path)) == Path(expanded.format(home=tmp_path))


def test_a_tilde_without_a_home_directory(monkeypatch):
    monkeypatch.setenv("HOME", "")
    with pytest.raises(ValueError) as caught:
        expand("~/weights.npz")
    assert str(caught.value) == (
        "'~/weights.npz': the home directory is not known (HOME is not set); write the path in full"
    )
    assert expand("~1.jpg") == Path("~1.jpg")
