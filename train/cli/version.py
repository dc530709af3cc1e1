"""`--version`: this program's version, and those of the packages that its results depend on."""


def print_version() -> None:
    """Prints the versions. None of the packages is imported."""
    from train.run.provenance import code_version, versions

    found = versions()
    own, python = found.pop("resnet-jax"), found.pop("python")
    commit = code_version()
    print(f"resnet-jax {own}" + (f" (commit {commit})" if commit else ""))
    print(f"python {python}")
    for name, version in found.items():
        print(f"{name} {version or 'not installed'}")
