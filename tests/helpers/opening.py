"""Opening a runtime with choices by name: keywords of `edgemem.open` or options."""

from dataclasses import fields

import edgemem

OPTIONS = {field.name for field in fields(edgemem.Options)}


def opened_with(bundle, state=None, threads=1, **choices):
    """A runtime on one thread; choices: keywords of `edgemem.open` and fields of its options."""
    options = {name: choices.pop(name) for name in OPTIONS & choices.keys()}
    return edgemem.open(
        bundle, state, threads=threads, options=edgemem.Options(**options), **choices
    )
