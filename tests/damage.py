"""Random damage to bytes, JSON, tables and weights, and what a folder held before it."""

import json
import os
import random
from pathlib import Path
from typing import Any

import torch

NUMBERS = (0, 1, 2, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
VALUES = (
    None, True, 0, -1, 10**4000, 1e308, float("nan"), float("inf"), "", " ", "\0", "\ud800", "é" * 300, "../secret",
    "a\nb", [], {}, [[]], {"": None}, [None],
)  # fmt: skip


def damage_bytes(whole: bytes, draw: random.Random, start: int = 0, end: int | None = None) -> bytes:
    """Change some bytes between `start` and `end`."""
    content = bytearray(whole)
    end = len(whole) if end is None else end
    place = draw.randrange(start, end)
    length = min(end - place, draw.choice([1, 4, 16, 100, 1000, end - start]))
    match draw.choice(["flip", "number", "noise", "zeros", "cut", "repeat"]):
        case "flip":
            for _ in range(draw.choice([1, 2, 4, 16, 64])):
                content[draw.randrange(start, end)] ^= 1 << draw.randrange(8)
        case "number":
            content[place : place + 4] = draw.choice(NUMBERS).to_bytes(4, draw.choice(["big", "little"]))
        case "noise":
            content[place : place + length] = draw.randbytes(length)
        case "zeros":
            content[place : place + length] = bytes(length)
        case "cut":
            del content[place : place + length]
        case "repeat":
            content[place:place] = content[place : place + length]
    return bytes(content)


def damage_value(value: Any, draw: random.Random) -> Any:
    """Replace or remove one part of a JSON value."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    if not keys or draw.random() < 0.2:
        return draw.choice(VALUES)
    changed, key = value.copy(), draw.choice(keys)
    if draw.random() < 0.15:
        del changed[key]
    elif isinstance(value, dict) and draw.random() < 0.1:
        changed[draw.choice(["", "\0", "\ud800", "x" * 1000])] = changed.pop(key)
    else:
        changed[key] = damage_value(value[key], draw)
    return changed


def damage_table(text: str, draw: random.Random) -> str:
    """Change a cell, a line or the order of lines."""
    lines = text.splitlines()
    place = draw.randrange(len(lines))
    separator = "\t" if "\t" in text else ","
    cells = lines[place].split(separator)
    match draw.choice(["cell", "remove", "add", "line", "twice", "quote"]):
        case "cell":
            cells[draw.randrange(len(cells))] = str(draw.choice(VALUES[2:15])).replace("\ud800", "?")
        case "remove":
            del cells[draw.randrange(len(cells))]
        case "add":
            cells.append("more")
        case "line":
            cells = []
        case "twice":
            cells *= 2
        case "quote":
            cells[draw.randrange(len(cells))] = '"open'
    lines[place] = separator.join(cells)
    return "\n".join(lines) + "\n"


def damage_file(path: Path, draw: random.Random) -> None:
    """Damage a file, with relevant damage for its format."""
    content = path.read_bytes()
    if draw.random() < 0.4:
        content = damage_bytes(content, draw)
    elif path.suffix == ".json":
        content = json.dumps(damage_value(json.loads(content), draw)).encode()
    elif path.suffix == ".jsonl":
        lines = content.decode().splitlines()
        place = draw.randrange(len(lines))
        lines[place] = json.dumps(damage_value(json.loads(lines[place]), draw))
        content = "\n".join(lines).encode()
    elif path.suffix != ".pkl":
        content = damage_table(content.decode(), draw).encode()
    else:
        content = damage_bytes(content, draw)
    path.write_bytes(content)


def damage_state(state: dict[str, torch.Tensor], draw: random.Random) -> dict[str, torch.Tensor]:
    """Change, remove or rename one tensor."""
    state = dict(state)
    name = draw.choice(list(state))
    tensor = state.pop(name)
    changes = [
        lambda: {},
        lambda: {name + ".more": tensor},
        lambda: {name: tensor.flatten()[:0]},
        lambda: {name: tensor.flatten()[0]},
        lambda: {name: tensor.unsqueeze(0)},
        lambda: {name: tensor.repeat(2, *[1] * (tensor.dim() - 1)) if tensor.dim() else tensor},
        lambda: {name: tensor.flatten()[:3].clone()},
        lambda: {name: tensor.to(torch.complex64)},
        lambda: {name: tensor.bool()},
        lambda: {name: tensor.flatten()[0].expand(10**6, 10**6)},
        lambda: {name: tensor.to_sparse()},
        lambda: {name: tensor.to("meta")},
    ]
    return state | draw.choice(changes)()


def snapshot(folder):
    """Every file of a folder with its bytes, and every link with its target."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        found[name] = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
    return found
