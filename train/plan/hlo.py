"""Figures of an optimised XLA program, from its text (`compiled.as_text()`).

All figures are for one device and one run of the program. The body of a loop counts as often as it
runs if the text gives the number (true for a loop over the blocks of a stage), else once.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

_BITS = {"pred": 8, "bf16": 16, "c64": 64, "c128": 128}  # other names end in the number of bits

_INSTRUCTION = re.compile(r"\s*(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([a-z][a-z0-9\-]*)\((.*)$")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")

# Instructions that move no bytes: they only name or regroup buffers.
FREE = {"parameter", "tuple", "get-tuple-element", "bitcast", "constant", "iota", "after-all"}
FREE |= {"while"}  # the instructions of its body are counted

COLLECTIVES = (
    *("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "ragged-all-to-all"),
    *("collective-permute", "collective-broadcast"),
)


class Buffer(NamedTuple):
    """An array: its bytes without padding, and whether it is in on-chip memory instead of HBM."""

    bytes: int
    on_chip: bool
    rows: int = 1
    """Length of its first axis."""


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    kind: str
    result: list[Buffer]
    operands: list[str]
    attributes: str
    computation: str
    """The computation that contains it; "ENTRY": the main one of the program."""


@dataclass(frozen=True)
class Collective:
    """All collectives of one kind."""

    count: int
    bytes: int
    """Size of the whole arrays: the results of all-gathers, the operands of reduce-scatters."""
    sent: float
    """Bytes that a device sends with the ring algorithm."""


def _buffers(type_text: str) -> list[Buffer]:
    found = []
    for dtype, dims, layout in _ARRAY.findall(type_text):
        digits = re.match(r"[a-z]+(\d+)", dtype)
        bits = _BITS.get(dtype) or (int(digits[1]) if digits else 0)  # token[] holds nothing
        elements = math.prod(int(dim) for dim in dims.split(",") if dim)
        rows = int(dims.split(",")[0] or 1)
        found.append(Buffer(-(-bits * elements // 8), "S(" in layout, rows))
    return found


def _split(rest: str) -> tuple[list[str], str]:
    """Operands and attributes of an instruction, from the text after its opening parenthesis."""
    depth = 1
    for end, char in enumerate(rest):
        depth += (char == "(") - (char == ")")
        if depth == 0:
            return re.findall(r"%([\w.\-]+)", rest[:end]), rest[end + 1 :]
    return [], rest


def instructions(text: str) -> Iterator[Instruction]:
    """Every instruction of every computation, in order."""
    computation = ""
    for line in text.splitlines():
        match = _INSTRUCTION.match(line)
        if match:
            name, type_text, kind, rest = match.groups()
            operands, attributes = _split(rest)
            yield Instruction(name, kind, _buffers(type_text), operands, attributes, computation)
        elif line.rstrip().endswith("{") and not line.startswith(" "):
            computation = line.split()[0].lstrip("%")


def _loops(text: str) -> dict[str, int]:
    """Trips of each loop, by its body: XLA's known trip count, or n of its condition `i < n`."""
    bounds: dict[str, int] = {}
    computation = ""
    for line in text.splitlines():
        if line.rstrip().endswith("{") and not line.startswith(" "):
            computation = line.split()[0].lstrip("%")
        elif found := re.search(r"= s32\[\]\S* constant\((\d+)\)", line):
            bounds[computation] = int(found[1])
    trips = {}
    for it in instructions(text):
        if it.kind == "while":
            condition, body = (_called(it.attributes, name)[0] for name in ("condition", "body"))
            known = re.search(r'known_trip_count":\{"n":"(\d+)"', it.attributes)
            trips[body] = int(known[1]) if known else bounds.get(condition, 1)
    return trips


def _called(attributes: str, name: str = "calls|to_apply|body|condition") -> list[str]:
    return re.findall(rf"(?:{name})=%?([\w.\-]+)", attributes)


def _runs(text: str) -> Counter[str]:
    """How often each computation runs, called by the main one or by a loop in it."""
    trips, found = _loops(text), Counter({"ENTRY": 1})
    for it in reversed(list(instructions(text))):  # a computation is defined before its callers
        for name in _called(it.attributes):
            found[name] += found[it.computation] * trips.get(name, 1)
    return found


def group_size(attributes: str, devices: int) -> int:
    """Number of devices in each group of a collective, of `devices` in total.

    >>> group_size("replica_groups={{0,1},{2,3}}", 4)
    2
    >>> group_size("replica_groups=[2,4]<=[8]", 8)
    4
    >>> group_size("replica_groups=mesh['data'=2,'fsdp'=4] {'fsdp'}", 8)
    4
    """
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return len(found[1].split(","))
    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]", attributes):
        return int(found[2])
    if found := re.search(r"replica_groups=@?mesh\[([^]]*)\][^{]*\{([^}]*)\}", attributes):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
        axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", found[2])  # part of an axis: 'x':(1)2
        return math.prod(int(part or sizes[axis]) for axis, part in axes)
    return devices


def _sent(kind: str, size: int, group: int) -> float:
    if kind in ("collective-permute", "collective-broadcast"):
        return size
    share = (group - 1) / group
    return size * share * (2 if kind == "all-reduce" else 1)


def collectives(text: str, devices: int) -> dict[str, Collective]:
    """Collectives by kind. A -start and its -done count as one."""
    found: dict[str, Collective] = {}
    results: dict[str, list[Buffer]] = {}
    runs = _runs(text)
    for it in instructions(text):
        results[it.name] = it.result
        kind = it.kind.removesuffix("-start")
        if kind not in COLLECTIVES:
            continue
        if kind == "all-reduce" and it.computation.startswith("all-reduce-scatter"):
            kind = "reduce-scatter"  # the form on TPUs: a fusion keeps one slice of the sum
        group = group_size(it.attributes, devices)
        size = sum(buffer.bytes for name in it.operands for buffer in results.get(name, []))
        size *= group if kind == "all-gather" else 1
        old = found.get(kind, Collective(0, 0, 0.0))
        n = runs[it.computation] or 1
        sent = old.sent + n * _sent(kind, size, group)
        found[kind] = Collective(old.count + n, old.bytes + n * size, sent)
    return found


def custom_calls(text: str) -> Counter[str]:
    """Number of calls of each custom target, such as the convolution of a library."""
    return Counter(re.findall(r'custom_call_target="([^"]*)"', text))


def fusions(text: str) -> int:
    """Number of fusions in the main computation: roughly the number of kernels."""
    return sum(it.kind == "fusion" and it.computation == "ENTRY" for it in instructions(text))


def hbm_bytes(text: str) -> Counter[str]:
    """HBM traffic in bytes by kind of instruction, of the main computation and its loops.

    This is a model without caches: each instruction reads its operands once and writes its result
    once, except for arrays in on-chip memory (memory space `S(1)`). XLA's "bytes accessed" counts
    those too. In a loop, an array with as many rows as there are trips is taken as stacked: each
    trip reads or writes one row.
    """
    total: Counter[str] = Counter()
    results: dict[str, list[Buffer]] = {}
    trips, runs = {"ENTRY": 1, **_loops(text)}, _runs(text)
    for it in instructions(text):
        if it.computation not in trips:
            continue
        results[it.name] = it.result
        if it.kind in FREE or it.kind.endswith(("-done", "-update")):
            continue
        operands = [
            buffer for name in dict.fromkeys(it.operands) for buffer in results.get(name, [])
        ]
        moved = _moved(it, operands, trips[it.computation])
        total[it.kind] += int(moved * runs[it.computation])
    return total


def _moved(it: Instruction, operands: list[Buffer], trips: int) -> float:
    """Bytes that an instruction moves in one trip of the loop that contains it."""

    def stacked(buffer: Buffer) -> bool:
        return buffer.rows == trips > 1

    def size(buffer: Buffer) -> float:
        return 0 if buffer.on_chip else buffer.bytes / (trips if stacked(buffer) else 1)

    if it.kind in ("copy-start", "slice-start"):  # (to, from, context) or (from, to, context)
        ends = it.result[:2]
        return min(ends).bytes * sum(not end.on_chip for end in ends)
    written = sum(map(size, it.result))
    if it.kind.endswith("-start") and it.kind != "all-reduce-start":
        return written  # the type of an asynchronous result contains the operands too
    # An operand that is updated in place is only written.
    read = [x for x in operands if not (stacked(x) and x in it.result)]
    return written + sum(map(size, read))
