"""What the traces play, for recording them: replay needs only the data that this leads to."""

import numpy as np
from tracing import inputs
from tracing.files import RECORDED, record
from tracing.frames import ROOT

DEMO, STREAM = "edgemem/demo/digits.edgemem", "edgemem/demo/digits-stream.npz"
TAUGHT, SHOWN = "examples/new_class/digits.edgemem", "examples/new_class/digits.npz"
SENSORS = "examples/sensors/activities.edgemem"
KEYWORDS = "examples/keyword_spotting/keywords.edgemem"
BATCH = 16
VISITS = ("clear", "fog", "noise", "dusk", "blur")
PLACES = {name: 240 * number for number, name in enumerate(VISITS)}  # first visits in the stream
EVERY = {"entropy_margin": 9.0}  # every frame is reliable
MAPPED = 25_000_000  # bytes, too few for the fast plan


def seen(where, first=0, count=BATCH, *changes, **more):
    """Frames of the first visit of a condition in the packaged stream."""
    rule = {"file": STREAM, "array": "x", "first": PLACES[where] + first, "count": count, **more}
    return {**rule, "changes": [list(change) for change in changes]} if changes else rule


def held(array, first=0, count=BATCH, *changes, file="arrays.npz", **more):
    """Frames of an array of the trace's own, or of a packaged file."""
    rule = {"file": file, "array": array, "first": first, "count": count, **more}
    return {**rule, "changes": [list(change) for change in changes]} if changes else rule


def call(what, frames=None, /, **arguments):
    return {"call": what, **({} if frames is None else {"frames": frames}), **arguments}


def opened(state="state.db", **options):
    return call("open", state=state, **options)


def batches(where, first, count, *changes):
    """One call a batch, from a batch of the condition on."""
    return [call("step", seen(where, BATCH * (first + n), BATCH, *changes)) for n in range(count)]


def flushed(calls):
    """Each followed by a flush, which waits for the step that runs in the background."""
    return [each for one in calls for each in (one, FLUSH)]


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


def _labels():
    """Of the first visit of the packaged stream."""
    with np.load(ROOT / STREAM) as stream:
        return stream["y"][:240]


def guard():
    """Steps that go astray, by learning rates far too large, and the rails that catch them."""
    wild = {"learning_rate": 1e4, "momentum": 0.0}
    dissent = {"learning_rate": 10.0, "momentum": 0.0, "regularization_weight": 0.0, **EVERY,
               "source_share": 0.0}  # fmt: skip
    labels = _labels()
    digits = [np.flatnonzero(labels == digit).tolist() for digit in range(10)]
    pairs = [n for place in range(0, 10, 2) for digit in digits for n in digit[place : place + 2]]
    calls = [
        opened(hyper_parameters=wild), *batches("fog", 0, 11), FLUSH, *batches("dusk", 0, 3), CLOSE,
        opened(), *batches("dusk", 3, 4), *batches("fog", 11, 2), *batches("dusk", 7, 8), CLOSE,
        # A restart while the guard rails stand on a rung.
        opened("dissent.db", hyper_parameters=dissent, contexts=False),
        *batches("noise", 0, 9), CLOSE,
        opened("dissent.db", hyper_parameters=dissent, contexts=False),
        *batches("noise", 9, 6), *batches("noise", 0, 8), CLOSE,
        # The loss is not finite; the next block is not; the block gives no numbers.
        opened("loss.db", hyper_parameters={"learning_rate": 1e20, "momentum": 0.0}),
        *batches("fog", 0, 4), CLOSE,
        opened("loss.db", hyper_parameters={"learning_rate": 1e35}), *batches("fog", 4, 3), CLOSE,
        opened("loss.db", hyper_parameters={"alpha": 1e30}), *batches("fog", 7, 3),
        call("predict", seen("fog", 0, 3)), CLOSE,
        opened("loss.db"), *batches("fog", 10, 5), CLOSE,
        # The frozen model answers as labels are in order, with a parameter that gives no numbers.
        opened(None, hyper_parameters={"label_order": 3e38}),
        *[call("step", seen("clear", 0, 240, ("take", pairs[n : n + 8]))) for n in range(0, 64, 8)],
        call("step", seen("clear", 0, 3)), call("predict", seen("clear", 0, 3)), CLOSE,
    ]  # fmt: skip
    return record("guard", guard.__doc__, DEMO, calls, {}, tolerance=None)


def frames():
    """Frames that are unusual: still, of one class, of another scale, refused."""
    labels = _labels()
    one = np.flatnonzero(labels == 1).tolist()
    bursts = [call("step", seen("clear", 0, 240, ("take", one[n : n + BATCH])))
              for n in range(0, 64, BATCH)]  # fmt: skip
    calls = [
        opened(), *bursts, call("step", seen("clear", one[0], 1, bare=True)),
        *batches("fog", 0, 12), call("step", seen("fog", 0, BATCH, ("same",))),
        call("predict", seen("fog", 3, 2)), call("step", seen("fog", 0, 40, ("same",))),
        *batches("fog", 12, 1), call("step", seen("fog", 0, BATCH, ("replace", 70, 2e15))),
        call("step", seen("fog", 0, 0)), call("learn", seen("fog", 0, 1), labels=["fog"]),
        call("rollback", to="nowhere"), call("rename_class", old="1", new="one"),
        call("step", seen("fog", 0, BATCH, ("scale", 255, 0))),
        call("step", seen("fog", 0, BATCH, ("scale", 255, 0))),
        call("step", seen("fog", 0, BATCH, ("scale", 9e14, -5e14))), *batches("fog", 13, 2), CLOSE,
    ]  # fmt: skip
    return record("frames", frames.__doc__, DEMO, calls, {}, tolerance=1e-2)


def schedule():
    """When steps run, and what is left out: schedules, one block for all, no frames."""
    visits = [*batches("fog", 0, 3), *batches("dusk", 0, 2), *batches("fog", 3, 1)]
    calls = []
    for when in (3, "drift", "60s/min", "0.0000001s/min"):
        calls += [opened(None, adapt_when=when), *visits, CLOSE]
    calls += [
        opened(None, adapt_when="drift"), *batches("fog", 0, 15), *batches("fog", 0, 4), CLOSE,
        opened(contexts=False), *visits, CLOSE,
        opened(contexts=False), *visits[:2], call("rollback", to="commit"), *visits[3:5], CLOSE,
        opened(), *visits, call("step", seen("fog", 0, 9)), CLOSE,
        # The frames that waited are not written, and those that were are deleted.
        opened(), call("step", seen("fog", 0, 5)), CLOSE,
        opened(keep_frames=False), call("step", seen("fog", 9, 9)), *visits[3:5], CLOSE,
        opened(keep_frames=False), call("predict", seen("dusk", 50, 3)), *visits[5:], CLOSE,
        opened(adapt=False), *visits[:2], call("step", seen("fog", 0, 5)),
        call("predict", seen("fog", 0, 5), frozen=True), CLOSE,
        opened(memory_budget=1), opened(None, memory_budget=MAPPED), *visits[:2], CLOSE,
    ]  # fmt: skip
    return record("schedule", schedule.__doc__, DEMO, calls, {})


def background():
    """Steps in the background, one at a time; a flush waits for each."""
    calls = [
        opened(background=True), *flushed(batches("fog", 0, 4)), *flushed(batches("dusk", 0, 3)),
        *flushed([call("step", seen("fog", 64 + n, 1, bare=True)) for n in range(17)]),
        *batches("fog", 6, 1), call("predict", seen("fog", 0, 4)), CLOSE,
        opened(background=True), *flushed(batches("fog", 7, 2)), *batches("fog", 9, 1),
        call("rollback", to="commit"), *flushed(batches("fog", 10, 2)), *batches("dusk", 3, 1),
        call("rollback", to="source"), *flushed(batches("dusk", 4, 2)), CLOSE,
        opened(background=True, hyper_parameters={"learning_rate": 1e20, "momentum": 0.0}),
        *flushed(batches("dusk", 6, 5)), CLOSE,
        opened(background=True), *flushed(batches("dusk", 11, 2)), CLOSE,
    ]  # fmt: skip
    return record("background", background.__doc__, DEMO, calls, {})


def classes():
    """Classes that are taught, forgotten and renamed, between frames without labels."""
    with np.load(ROOT / SHOWN) as file:
        digits = file["y"]
    some = {d: np.flatnonzero(digits == d).tolist() for d in range(10)}
    known = np.flatnonzero(digits < 7).tolist()
    all_of = len(digits)
    names = ("seven", "eight", "nine")

    def of(places, *changes, **more):
        return held("x", 0, all_of, ("take", places), *changes, file=SHOWN, **more)

    def steps(count, first, *changes):
        return [call("step", of(known[BATCH * (first + n) :][:BATCH], *changes))
                for n in range(count)]  # fmt: skip

    def taught(digit, first, count, *changes, label=None):
        label = names[digit - 7] if label is None else label
        return call(
            "learn", of(some[digit][first : first + count], *changes), labels=[label] * count
        )

    dark = ("scale", 0.4, 0.1)
    new = [n for d in (7, 8, 9) for n in some[d][30:38]]
    test = call("predict", of(new))
    listed = call("classes")
    calls = [
        opened(), listed, test, *steps(3, 0), taught(7, 0, 5), test, listed, *steps(2, 3),
        call("learn", of(some[8][:1], bare=True), labels="eight"), call("step", of(new)),
        taught(7, 5, 20), *steps(3, 5, dark), taught(9, 0, 5, dark), test, listed,
        call("predict", of(new, dark)), call("predict", of(new), frozen=True),
        call("rename_class", old="eight", new="acht"), call("rename_class", old=0, new="null"),
        call("rename_class", old="acht", new="nine"), call("forget_class", name="missing"),
        call("learn", of(some[7][:2]), labels=["seven", 99]),
        call("learn", of(some[7][:2]), labels=["a", "b", "c"]),
        call("learn", of([*some[7][:3], *some[8][:3]]), labels=["p", "q", "r", "s", "t", "u"]),
        call("learn", of([some[7][0], some[7][0]]), labels=["seven", "nine"]),
        *steps(2, 8), FLUSH, taught(0, 0, 3, label="null"), *steps(2, 10),
        call("rollback", to="commit"), test, CLOSE,
        opened(), listed, test, call("forget_class", name="nine"), test, listed,
        *steps(2, 12, dark), taught(8, 1, 4, label="acht"), taught(9, 5, 5),
        call("learn", of(some[1][:2]), labels=[1, 1]), call("forget_class", name=1),
        call("step", of(new[:5])), *steps(2, 14), CLOSE,
        opened(read="prototypes", adapt=False), taught(8, 10, 3, label="acht"), test, CLOSE,
        opened(read="classifier", contexts=False), test, taught(7, 25, 3), *steps(1, 17), CLOSE,
        opened(hyper_parameters={"learning_rate": 0.01}), test, *steps(4, 18, dark), *steps(2, 22),
        call("rollback", to="source"), listed, test, taught(9, 9, 3), CLOSE,
        opened(hyper_parameters={"learn_rate": 0.0}, background=True), taught(7, 0, 5),
        *flushed(steps(2, 24, dark)), *steps(1, 26, dark), taught(8, 0, 5), listed, test, CLOSE,
    ]  # fmt: skip
    return record("classes", classes.__doc__, TAUGHT, calls, {})


def keywords():
    """Words of three speakers, who come back."""
    speakers = inputs.spoken(32)
    arrays = {f"speaker-{n}": words for n, words in enumerate(speakers)}

    def visit(n, seed):
        return [call("step", held(f"speaker-{n}", first, BATCH, ("noise", seed + first, 0.05)))
                for first in (0, 16, 0, 16)]  # fmt: skip

    calls = [
        opened(hyper_parameters={"learning_rate": 0.01}), *visit(0, 1), *visit(1, 2), *visit(2, 3),
        call("predict", held("speaker-2", 0, 5)), *visit(1, 4), FLUSH,
        *[call("step", held("speaker-1", n, 1, bare=True)) for n in range(6)], CLOSE,
        opened(), call("set", name="learning_rate", value=0.02), *visit(2, 5),
        call("step", held("speaker-0", 0, 32)), *visit(0, 6), CLOSE,
    ]  # fmt: skip
    return record("keywords", keywords.__doc__, KEYWORDS, calls, arrays)


def _worn(n, seed, count=4):
    return [call("step", held(f"place-{n}", BATCH * (k % 2), BATCH, ("noise", seed + k, 0.01)))
            for k in range(count)]  # fmt: skip


def sensors():
    """Windows of a sensor that is worn in three places; a disk that is gone."""
    arrays = {f"place-{n}": windows for n, windows in enumerate(inputs.worn(32))}
    calls = [
        opened(hyper_parameters={"learning_rate": 0.01}), *_worn(0, 10), *_worn(1, 20),
        *_worn(2, 30), *_worn(1, 40), FLUSH, call("step", held("place-1", 0, 11)), CLOSE,
        opened(), *_worn(2, 50), *_worn(0, 60), *_worn(1, 70), call("rollback", to="commit"),
        *_worn(1, 80, 2), call("rollback", to="zero"), *_worn(2, 90, 2), CLOSE,
        # A commit is due after 64 steps, and the disk is gone.
        opened("gone.db"), *_worn(1, 0, 2), FLUSH, call("hide state"),
        *[call("step", held("place-1", 0, 32, ("take", 8 * list(range(32))), ("noise", n, 0.01)))
          for n in range(5)],
        call("flush"), call("close"), call("show state"), *_worn(1, 5, 1), CLOSE,
        opened("gone.db"), *_worn(1, 7, 2), CLOSE,
    ]  # fmt: skip
    return record("sensors", sensors.__doc__, SENSORS, calls, arrays)


def levels():
    """A bundle with the levels of what another device learnt: rows arrive, one of them damaged."""
    windows = inputs.worn(32)
    arrays = {f"place-{n}": each for n, each in enumerate(windows)}
    folder = RECORDED / "levels" / "levels"
    folder.parent.mkdir(parents=True, exist_ok=True)
    visits = [windows[n] for n in (1, 1, 2, 2, 1, 0, 0)]
    inputs.learnt_levels(ROOT / SENSORS, visits, folder)
    calls = [
        opened(), *_worn(1, 20), *_worn(2, 30), *_worn(0, 10), *_worn(1, 40), FLUSH, CLOSE,
        opened(hyper_parameters={"learning_rate": 0.01}), *_worn(1, 50, 2), *_worn(2, 60), FLUSH,
        *_worn(1, 70), *_worn(2, 80, 2), call("rollback", to="commit"), *_worn(2, 90, 2),
        call("predict", held("place-2", 0, 7)), CLOSE,
        opened(None, background=True), *flushed(_worn(1, 20)), *flushed(_worn(2, 30)), CLOSE,
        opened(contexts=False), *_worn(2, 30, 2), CLOSE, opened(), *_worn(1, 20, 2),
        call("rollback", to="source"), *_worn(2, 20, 3), CLOSE,
    ]  # fmt: skip
    place = inputs.damaged_byte(folder, 2, 1)
    damage = [{"file": "level-2.safetensors", "byte": place}]
    return record("levels", levels.__doc__, SENSORS, calls, arrays, levels="levels", damage=damage)


SCENARIOS = {
    each.__name__: each
    for each in (contexts, guard, frames, schedule, background, classes, keywords, sensors, levels)
}
