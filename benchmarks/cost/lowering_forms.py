"""Forms of the same backward operator in onnxruntime: why the lowering takes the ones it takes.

Each form is a graph of its own, between two convolutions where an engine's image layout matters.
All forms of one operator compute the same, which is checked; they take turns.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from benchmarks.shared.report import command_line, save_json, setting, setting_text
from edgemem.cli.show import print_table, progress

N, C, SIZE, SMALL = 64, 32, 32, 4
STEEP = 2.0**127
Form = tuple[list[Any], dict[str, Any]]
node = helper.make_node


def ints(*values: int) -> Any:
    """A constant of integers."""
    return np.array(values, np.int64)


def random(*shape: int) -> Any:
    """Values around zero."""
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def gates() -> dict[str, Form]:
    """g where relu(x) is positive, between convolutions."""
    kernel = {"w": 0.05 * random(C, C, 3, 3), "zero": np.float32(0).reshape(())}

    def between(*middle: Any) -> Form:
        before = [
            node("Conv", ["x", "w"], ["a0"], pads=[1] * 4),
            node("Relu", ["a0"], ["a"]),
            node("Conv", ["a", "w"], ["g"], pads=[1] * 4),
        ]
        return [*before, *middle, node("Conv", ["m", "w"], ["y"], pads=[1] * 4)], kernel

    return {
        "compare and select": between(
            node("LessOrEqual", ["a", "zero"], ["c"]), node("Where", ["c", "zero", "g"], ["m"])
        ),
        "times the sign": between(node("Sign", ["a"], ["c"]), node("Mul", ["g", "c"], ["m"])),
        "times a steep HardSigmoid *": between(
            node("HardSigmoid", ["a"], ["c"], alpha=STEEP, beta=0.0),
            node("Mul", ["g", "c"], ["m"]),
        ),
    }


def norms(x: str = "x", taken: str = "depthwise 1x1 convolution") -> dict[str, Form]:
    """relu(x * scale + shift) with runtime scale and shift per channel."""
    apart = [
        node("Reshape", ["s", "k"], ["s4"]),
        node("Reshape", ["t", "k"], ["t4"]),
        node("Mul", [x, "s4"], ["a"]),
        node("Add", ["a", "t4"], ["b"]),
        node("Relu", ["b"], ["r"]),
    ]
    once = [
        node("Reshape", ["s", "k"], ["s4"]),
        node("Conv", [x, "s4", "t"], ["b"], group=C),
        node("Relu", ["b"], ["r"]),
    ]
    norm = [
        node("BatchNormalization", [x, "s", "t", "none", "one"], ["b"], epsilon=0.0),
        node("Relu", ["b"], ["r"]),
    ]
    mean = node("ReduceMean", ["r", "axes"], ["y"], keepdims=0)
    axes = {"axes": ints(2, 3)}
    moments = {"none": np.zeros(C, np.float32), "one": np.ones(C, np.float32)}
    forms = {
        "Mul, Add, Relu": ([*apart, mean], {"k": ints(1, C, 1, 1)} | axes),
        "depthwise 1x1 convolution": ([*once, mean], {"k": ints(C, 1, 1, 1)} | axes),
        "BatchNormalization, Relu": ([*norm, mean], moments | axes),
    }
    return {f"{name} *" if name == taken else name: form for name, form in forms.items()}


def small_norms() -> dict[str, Form]:
    """The same on small planes."""
    return norms("small", "BatchNormalization, Relu")


def weight_gradients() -> dict[str, Form]:
    """Of a 3x3 convolution with padding 1."""
    flat = {"flat": ints(N, C, SIZE * SIZE), "batch": ints(0), "shape": ints(C, C, 3, 3)}

    def products(nodes: list[Any], pairs: list[tuple[str, str]], constants: Any) -> Form:
        done = {name for pair in pairs for name in pair}
        nodes = nodes + [node("Reshape", [name, "flat"], [f"{name}.f"]) for name in sorted(done)]
        for number, (left, right) in enumerate(pairs):
            nodes += [
                node("Transpose", [f"{right}.f"], [f"r{number}"], perm=[0, 2, 1]),
                node("MatMul", [f"{left}.f", f"r{number}"], [f"p{number}"]),
                node("ReduceSum", [f"p{number}", "batch"], [f"s{number}"], keepdims=1),
            ]
        names = [f"s{number}" for number in range(len(pairs))]
        nodes += [
            node("Concat", names, ["all"], axis=0),
            node("Transpose", ["all"], ["t"], perm=[1, 2, 0]),
            node("Reshape", ["t", "shape"], ["y"]),
        ]
        return nodes, constants | flat

    taps = [(a, b) for a in range(3) for b in range(3)]
    sliced = [node("Pad", ["x", "pads"], ["wide"])]
    bounds: dict[str, Any] = {"pads": ints(0, 0, 1, 1, 0, 0, 1, 1), "axes": ints(2, 3)}
    for a, b in taps:
        bounds |= {f"from{a}{b}": ints(a, b), f"to{a}{b}": ints(a + SIZE, b + SIZE)}
        inputs = ["wide", f"from{a}{b}", f"to{a}{b}", "axes"]
        sliced.append(node("Slice", inputs, [f"v{a}{b}"]))
    views, kernels = [], {}
    for shift in (0, 2):
        row, column = np.zeros((C, 1, 3, 1), np.float32), np.zeros((C, 1, 1, 3), np.float32)
        row[:, :, 2 - shift], column[..., shift] = 1, 1
        kernels |= {f"kr{shift}": row, f"kc{shift}": column}
        views += [
            node("Conv", ["g", f"kr{shift}"], [f"g{shift}"], group=C, pads=[1, 0, 1, 0]),
            node("Conv", ["x", f"kc{shift}"], [f"x{shift}"], group=C, pads=[0, 1, 0, 1]),
        ]
    rows, columns = ["g0", "g", "g2"], ["x0", "x", "x2"]
    swapped = [
        node("Transpose", ["x"], ["xt"], perm=[1, 0, 2, 3]),
        node("Transpose", ["g"], ["gt"], perm=[1, 0, 2, 3]),
        node("Conv", ["xt", "gt"], ["w"], pads=[1] * 4),
        node("Transpose", ["w"], ["y"], perm=[1, 0, 2, 3]),
    ]
    return {
        "convolution with swapped axes": (swapped, {}),
        "nine slices, nine products": products(
            sliced, [("g", f"v{a}{b}") for a, b in taps], bounds
        ),
        "depthwise views, nine products *": products(
            views, [(rows[a], columns[b]) for a, b in taps], kernels
        ),
    }


def strided_input_gradients() -> dict[str, Form]:
    """Of a 3x3 convolution with stride 2 and padding 1 from 32 to 64 channels."""
    w, half = random(2 * C, C, 3, 3), SIZE // 2
    phases = np.zeros((C, 2, 2, 2 * C, 2, 2), np.float32)
    for a, row in enumerate((((1, 0),), ((2, 0), (0, 1)))):
        for b, column in enumerate((((1, 0),), ((2, 0), (0, 1)))):
            for i, u in row:
                for j, v in column:
                    phases[:, a, b, :, u, v] = w[:, :, i, j].T
    stuffed = [
        node("Reshape", ["h", "r1"], ["a"]), node("Pad", ["a", "p1"], ["b"]),
        node("Reshape", ["b", "r2"], ["c"]), node("Pad", ["c", "p2"], ["d"]),
        node("Reshape", ["d", "r3"], ["e"]), node("Conv", ["e", "f"], ["y"], pads=[1] * 4),
    ]  # fmt: skip
    return {
        "zeros between, convolution": (
            stuffed,
            {
                "r1": ints(N, 2 * C, half, half, 1), "p1": ints(*[0] * 9, 1),
                "r2": ints(N, 2 * C, half, 1, SIZE), "p2": ints(*[0] * 8, 1, 0),
                "r3": ints(N, 2 * C, SIZE, SIZE),
                "f": np.ascontiguousarray(w[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)),
            },
        ),
        "phases, then interleaved": (
            [node("Conv", ["h", "f"], ["a"], pads=[0, 0, 1, 1]),
             node("DepthToSpace", ["a"], ["y"], blocksize=2, mode="CRD")],
            {"f": phases.reshape(4 * C, 2 * C, 2, 2)},
        ),
        "transposed convolution *": (
            [node("ConvTranspose", ["h", "f"], ["y"], pads=[1] * 4, strides=[2, 2],
                  output_padding=[1, 1])],
            {"f": w},
        ),
    }  # fmt: skip


SHAPES = {
    "x": (N, C, SIZE, SIZE), "g": (N, C, SIZE, SIZE), "h": (N, 2 * C, SIZE // 2, SIZE // 2),
    "small": (N, C, SMALL, SMALL), "s": (C,), "t": (C,),
}  # fmt: skip
OPERATORS: dict[str, Callable[[], dict[str, Form]]] = {
    "gate of a ReLU": gates,
    "norm and ReLU": norms,
    f"norm and ReLU, {SMALL} x {SMALL}": small_norms,
    "weight gradient": weight_gradients,
    "strided input gradient": strided_input_gradients,
}


def prepared(form: Form, threads: int) -> Callable[[], Any]:
    """A form as a call."""
    nodes, constants = form
    made = {name for n in nodes for name in n.output}
    read = {name for n in nodes for name in n.input}
    inputs = sorted(name for name in read & SHAPES.keys() if name not in made)
    values = {name: random(*SHAPES[name]) for name in inputs}
    graph = helper.make_graph(
        nodes,
        "form",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, SHAPES[n]) for n in inputs],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v, n) for n, v in constants.items() if n in read],
    )
    opsets = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")  # forms take turns
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    binding = session.io_binding()  # otherwise fresh memory for the output is part of the time
    for name in inputs:
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(values[name]))
    binding.bind_output("y")

    def call() -> Any:
        session.run_with_iobinding(binding)
        return binding

    return call


def measure(forms: dict[str, Form], repeats: int, threads: int) -> dict[str, float]:
    """Median milliseconds of each form."""
    calls = {name: prepared(form, threads) for name, form in forms.items()}
    results = [call().copy_outputs_to_cpu()[0] for call in calls.values()]
    for other in results[1:]:
        np.testing.assert_allclose(other, results[0], rtol=1e-3, atol=1e-3)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            call()
            began = time.perf_counter()
            call()
            times[name].append(1000 * (time.perf_counter() - began))
    return {name: float(np.median(values)) for name, values in times.items()}


def main() -> None:
    """Measure, print, save."""
    parser = command_line(
        __doc__,
        "benchmarks.cost.lowering_forms --quick",
        quick="3 repetitions instead of 25",
        threads=2,
    )
    options = parser.parse_args()
    found, repeats = {}, 3 if options.quick else 25
    with progress("operators") as bar:
        task = bar.add_task("forms", total=len(OPERATORS), note="")
        for name, forms in OPERATORS.items():
            found[name] = measure(forms(), repeats, options.threads)
            bar.update(task, advance=1, note=name)
    rows = [(o, form, f"{ms:.3g}") for o, forms in found.items() for form, ms in forms.items()]
    print_table(f"{N} x {C} x {SIZE} x {SIZE}", ("operator", "form (* = taken)", "ms"), rows)
    about = setting(threads=options.threads, repeats=repeats)
    print(setting_text(about, f"{options.threads} threads, median of {repeats}"))
    save_json({"benchmark": "lowering_forms", "setting": about, "results": found},
              options.out / "lowering_forms.json", options.json)  # fmt: skip


if __name__ == "__main__":
    main()
