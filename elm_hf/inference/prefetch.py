"""Preparing what comes next in a thread, while the device works."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar


Item = TypeVar("Item")
Prepared = TypeVar("Prepared")


def prepared_ahead(prepare: Callable[[Item], Prepared], items: Iterable[Item]) -> Iterator[tuple[Item, Prepared]]:
    """
    Each item with what `prepare` makes of it. The next item is prepared in a thread while the caller uses this one.

    An error of `prepare` is raised when its item is due, after all earlier items.
    """
    with ThreadPoolExecutor(max_workers=1) as thread:
        waiting = None
        for item in items:
            following = item, thread.submit(prepare, item)
            if waiting is not None:
                yield waiting[0], waiting[1].result()
            waiting = following
        if waiting is not None:
            yield waiting[0], waiting[1].result()
