"""The text of a plan: the compiler's figures, the roofline model, and the bottleneck."""

from typing import Any

GIB = 2**30


def render(found: dict[str, Any]) -> str:
    """The result of `planner.plan` as text."""
    computed, modelled = found["computed"], found["modelled"]
    lines = [_title(found), "", *_memory(found)]
    if "flops" in computed:
        lines += [*_traffic(found), "", *_roofline(found)]
    lines += ["", f"bottleneck: {modelled['binds']}"]
    if not computed["fits"]:
        lines += _suggestions(modelled)
    return "\n".join(line.rstrip() for line in lines)


def _title(found: dict[str, Any]) -> str:
    hosts = f"{found['hosts']} host{'s' * (found['hosts'] > 1)}"
    chips = f"{found['chips']} chip{'s' * (found['chips'] > 1)}"
    fsdp = f", fsdp {found['fsdp']}" if found["fsdp"] > 1 else ""
    return (
        f"{found['recipe']}: {found['network']}, {found['precision']}, batch {found['batch_size']} "
        f"on {found['topology']} ({chips}, {hosts}, {found['batch_per_chip']} images a chip{fsdp})"
    )


def _bytes(size: float) -> str:
    """A size of stored data, in binary units."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= scale:
            return f"{size / scale:.{2 if unit == 'GiB' else 1}f} {unit}"
    return f"{size:.0f} B"


def _amount(value: float) -> str:
    """An amount that is moved or counted, in decimal units."""
    for unit, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= scale:
            return f"{value / scale:.4g} {unit}"
    return f"{value:.3g} "


def _memory(found: dict[str, Any]) -> list[str]:
    memory = found["computed"]["memory"]
    versions = ", ".join(f"{k} {v}" for k, v in found["versions"].items() if k in _COMPILERS)
    usable, peak = memory["usable"], memory["peak"]
    verdict = "fits" if found["computed"]["fits"] else "does not fit"
    need = f"{_bytes(peak)} of {_bytes(usable)} ({peak / usable:.0%})" if peak else "unknown"
    lines = [
        f"computed by XLA's compiler ({versions}), for one chip and one step",
        f"  {'memory':<16}{need}: {verdict}",
    ]
    if found["platform"] == "cuda":
        lines.append("    (of the 75 % that JAX allocates; cuDNN's workspaces are not included)")
    for name, size in memory.items():
        if name not in ("peak", "usable") and size:
            lines.append(f"    {_PARTS.get(name, name):<28}{_bytes(size):>12}")
    if message := found["computed"].get("compiler_says"):
        lines.append(f"  the compiler's message: {message}")
    return lines


_COMPILERS = ("jax", "libtpu", "jax-cuda13-plugin")
_PARTS = {
    "optimiser": "optimiser state",
    "ema": "EMA",
    "temporaries": "activations, temporaries",
    "other": "program, padding, results",
}


def _traffic(found: dict[str, Any]) -> list[str]:
    computed, images = found["computed"], found["batch_per_chip"]

    def row(name: str, value: float | None, unit: str, note: str = "") -> list[str]:
        if value is None:
            return [f"  {name:<16}not reported by this compiler"]
        each = f"{_amount(value)}{unit}, {_amount(value / images)}{unit} an image"
        return [f"  {name:<16}{each}{note}"]

    lines = row("FLOPs", computed["flops"], "FLOP", f" (of {computed['flops_of']})")
    lines += row("bytes accessed", computed["bytes_accessed"], "B", ", on-chip buffers too")
    lines += row("HBM traffic", computed["hbm_bytes"], "B", ", counted in the program's text")
    for kind, each in computed["collectives"].items():
        lines.append(f"  {kind:<16}{each['count']}, {_amount(each['bytes'])}B in total")
    if not computed["collectives"]:
        lines.append(f"  {'collectives':<16}none")
    return lines


def _roofline(found: dict[str, Any]) -> list[str]:
    it, computed = found["modelled"], found["computed"]
    ms = {name: f"{1e3 * seconds:.2f} ms" for name, seconds in it["seconds"].items()}
    lines = [
        "roofline model: published peaks, perfect overlap, no latency, training steps only",
        f"  {'compute':<10}{ms['compute']:>10}  at {_amount(it['peak_flops'])}FLOP/s",
        f"  {'HBM':<10}{ms['hbm']:>10}  at {_amount(it['hbm_bandwidth'])}B/s",
    ]
    if computed["collectives"]:
        lines.append(
            f"  {'network':<10}{ms['network']:>10}  {_amount(it['sent_bytes'])}B sent by each chip "
            f"at {_amount(it['wire_bandwidth'])}B/s (rings)"
        )
    return [
        *lines,
        f"  {'step':<10}{ms['step']:>10}  {it['images_per_second']:,.0f} images/s, "
        f"{it['images_per_second_per_chip']:,.0f} a chip",
        f"  {'epochs':<10}{it['epochs_per_hour']:>7,.1f} /h  of {it['examples']:,} examples; "
        f"the run's {it['steps']:,} steps: {_duration(it['hours'])}",
        f"  {'input':<10}{it['images_per_second_per_host']:>7,.0f} /s  images for each host: "
        + _cores(it),
    ]


def _duration(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"


def _cores(it: dict[str, Any]) -> str:
    if it["cores_per_host"] is None:
        return "unknown number of CPUs (give the rate of one: --images_per_core)"
    cores, rate = it["cores_per_host"], it["images_per_core"]
    return f"{cores:,.0f} of its {it['host_cpus']} CPUs at {rate:.4g} JPEGs/s each"


def _suggestions(modelled: dict[str, Any]) -> list[str]:
    lines = modelled.get("suggestions")
    if lines is None:
        return ["the compiler does not report how much is needed: try a smaller --batch_size"]
    if not lines:
        return ["the state leaves no memory for a batch: choose a chip with more memory"]
    return ["should fit, if temporaries scale with the batch:", *(f"  {line}" for line in lines)]
