"""What the traces play, for recording them: replay needs only the data that this leads to."""

from tracing.files import record

DEMO, STREAM = "edgemem/demo/digits.edgemem", "edgemem/demo/digits-stream.npz"
BATCH = 16
VISITS = ("clear", "fog", "noise", "dusk", "blur", "fog", "clear", "dusk", "noise", "blur")
PLACES = {}  # where the first visit of each condition begins in the packaged stream
for number, visited in enumerate(VISITS):
    PLACES.setdefault(visited, 240 * number)


def seen(where, first=0, count=BATCH, *changes, **more):
    """Frames of one condition of the packaged stream."""
    rule = {"file": STREAM, "array": "x", "first": PLACES[where] + first, "count": count, **more}
    return {**rule, "changes": [list(change) for change in changes]} if changes else rule


def call(name, frames=None, **arguments):
    return {"call": name, **({} if frames is None else {"frames": frames}), **arguments}


def opened(state="state.db", **options):
    return call("open", state=state, **options)


def batches(where, first, count, *changes):
    """One call a batch, from a batch of the condition on."""
    return [call("step", seen(where, BATCH * (first + n), BATCH, *changes)) for n in range(count)]


FLUSH, CLOSE = call("flush"), call("close")


def contexts():
    """Contexts that begin and come back, calls of any size, restarts and ways back."""
    calls = [
        opened(), call("predict", seen("fog", 0, 5)),
        *batches("clear", 0, 4), *batches("fog", 0, 6), *batches("dusk", 0, 6), FLUSH,
        call("predict", seen("dusk", 0, 33)), call("predict", seen("dusk", 7, 1, bare=True)),
        call("predict", seen("dusk", 0, 20), frozen=True),
        *batches("fog", 6, 4), *batches("clear", 4, 3), *batches("blur", 0, 4), CLOSE,
        opened(), *batches("blur", 4, 2), *batches("dusk", 6, 3),
    ]  # fmt: skip
    place = 0
    for size in (1, 7, 16, 33, 5, 2, 64, 3, 15, 1, 1):
        calls.append(
            call("step", seen("noise", place, size, **({"bare": True} if size == 1 else {})))
        )
        place += size
    calls += [call("step", seen("fog", 160 + n, 1, bare=True)) for n in range(40)]
    calls += [
        FLUSH, *batches("blur", 6, 2), call("rollback", to="commit"), *batches("fog", 8, 2), CLOSE,
        opened(), *batches("clear", 7, 2), call("rollback", to="source"), *batches("fog", 0, 3),
        call("rollback", to="zero"), call("predict", seen("fog", 0, 8)), *batches("fog", 3, 3),
        FLUSH, call("rollback", to="commit"), CLOSE,
        opened(), *batches("fog", 6, 2), *batches("dusk", 8, 3), CLOSE,
    ]  # fmt: skip
    return record("contexts", contexts.__doc__, DEMO, calls, {})


SCENARIOS = {"contexts": contexts}
