"""Limits: on plain values from files (their number, nesting and length), and on images that are computed at once."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

MAX_NODES, MAX_DEPTH, MAX_BITS = 10_000, 50, 1024  # of settings: their values, their nesting, their numbers
LETTERS = 100  # of a text that count as one more value
BATCH_VALUES = 2_000_000  # pixels that go through a network at once, where no gradients are kept


def limit_batch(most: int, shape: Sequence[int]) -> int:
    """Returns how many images of a shape (C, H, W) go through a network at once: at least 1, at most ``most``."""
    return max(1, min(most, BATCH_VALUES // math.prod(shape)))


def walk(value: Any, nodes: int = MAX_NODES) -> Iterator[Any]:
    """Yields a value and all that lies in it, keys too; what is shared comes as often as it is reached.

    Args:
        value: Dicts, lists, tuples and sets of anything; it may even hold itself.
        nodes: How many values there may be.

    Raises:
        ValueError: There are more, or deeper than ``MAX_DEPTH``, or a number has more than ``MAX_BITS`` bits.
    """
    waiting, left = [(value, MAX_DEPTH)], nodes - 1
    while waiting:
        node, levels = waiting.pop()
        inner = [*node.values()] if isinstance(node, dict) else []
        if isinstance(node, dict | list | tuple | set):
            left -= len(node) + len(inner)
        elif isinstance(node, str | bytes):
            left -= len(node) // LETTERS
        elif isinstance(node, int) and node.bit_length() > MAX_BITS:
            raise ValueError("it has a number that is too long")
        if left < 0 or levels < 0:
            raise ValueError("it has too many values" if left < 0 else "it is nested too deeply")
        yield node
        if isinstance(node, dict | list | tuple | set):
            waiting += ((part, levels - 1) for part in (*node, *inner))


def check_size(value: Any) -> None:
    """Refuses a value that would take too long to walk through or to print; see ``walk``."""
    for _ in walk(value):
        pass
