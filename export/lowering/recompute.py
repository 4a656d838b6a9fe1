"""The lean plan: keep few activations, and compute the others again when the gradient comes back.

Sublinear memory as in Chen et al. 2016 (arXiv:1604.06174), done to the finished ONNX graph: the
forward pass is cut into segments; of each, only what crosses a cut is kept; where the backward pass
first needs more of a segment, the segment runs again. An engine that orders nodes as it likes could
run that copy early, or see that it computes the same as the original, and keep everything after
all. So each copy starts from its inputs plus a zero which is only known once the backward pass has
got there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import onnx
import onnx_ir as ir

LARGE = 1 << 16  # bytes; what is smaller is kept
MOST_SEGMENTS = 12
FORWARD = ("logits", "key", "stat.loss")


def recompute(model: onnx.ModelProto, segments: int | None = None) -> onnx.ModelProto:
    """The same step with fewer activations alive at a time; the same model where none is saved.

    segments: of the forward pass; None = as many as keep the fewest bytes.
    """
    onnx.checker.check_model(model)
    graph = ir.from_proto(onnx.shape_inference.infer_shapes(model))
    step = _Step(graph.graph)
    counts = range(1, MOST_SEGMENTS + 1) if segments is None else [segments]
    plan = min((step.segments(count) for count in counts), key=step.peak)
    for segment in reversed(plan[:-1]):  # the last one is needed at once
        step.run_again(segment)
    graph.graph.sort()
    return ir.to_proto(graph)


@dataclass(frozen=True)
class _Segment:
    """Forward nodes from one cut to the next, and what of them is kept: crosses the later cut."""

    nodes: list[ir.Node]
    kept: set[ir.Value]


class _Step:
    """The nodes of a step, in order, told apart into forward and backward ones."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph, self.names = graph, 0
        self.place = {node: number for number, node in enumerate(graph)}
        roots = [value.producer() for value in graph.outputs if value.name in FORWARD]
        self.forward = _ancestors(node for node in roots if node is not None)
        self.ordered = [node for node in graph if node in self.forward]
        self.last_read = self._last_read()
        self.widths = self._widths()
        self.depth = dict.fromkeys(self.forward, 0)  # of backward nodes, from the loss
        for node in self.place:
            before = [v.producer() for v in node.inputs if v is not None]
            if node not in self.forward:
                self.depth[node] = 1 + max((self.depth[n] for n in before if n), default=0)

    def segments(self, count: int) -> list[_Segment]:
        """The forward pass in so many segments of about equally many saved bytes."""
        saved = [sum(_bytes(v) for v in node.outputs if self._saved(v)) for node in self.ordered]
        total, done, start = sum(saved), 0, 0
        found = []
        for number in range(1, count + 1):
            stop = start
            while stop < len(saved) and (done < total * number / count or number == count):
                done += saved[stop]
                stop += 1
            stop = self._narrowest(start, stop) if number < count else len(saved)
            nodes = self.ordered[start:stop]
            done = sum(saved[:stop])
            found.append(_Segment(nodes, self._crossing(start, stop)))
            start = stop
        return [segment for segment in found if segment.nodes]

    def _narrowest(self, start: int, stop: int) -> int:
        """The last place in the second half of a range where the fewest bytes cross."""
        middle = (start + stop + 1) // 2
        places = range(middle, stop + 1)
        return min(places, key=lambda place: (self.widths[place], -place), default=stop)

    def _last_read(self) -> dict[ir.Value, int]:
        """Large values of the forward pass that it reads itself: the place of the last reader."""
        places = {node: place for place, node in enumerate(self.ordered)}
        found = {}
        for value in (value for node in self.ordered for value in node.outputs):
            readers = [places[use.node] for use in value.uses() if use.node in places]
            if readers and _bytes(value) >= LARGE:
                found[value] = max(readers)
        return found

    def _widths(self) -> list[int]:
        """Bytes of large values that cross each place of the forward pass."""
        change = [0] * (len(self.ordered) + 1)
        for place, node in enumerate(self.ordered):
            for value in node.outputs:
                if value in self.last_read:
                    change[place + 1] += _bytes(value)
                    change[self.last_read[value] + 1] -= _bytes(value)
        return list(accumulate(change))

    def _crossing(self, start: int, stop: int) -> set[ir.Value]:
        """Large values made in a range of the forward pass and read after it, in forward order."""
        made = (value for node in self.ordered[start:stop] for value in node.outputs)
        return {value for value in made if self.last_read.get(value, -1) >= stop}

    def peak(self, plan: list[_Segment]) -> int:
        """Bytes alive at the worst moment, of saved values alone."""
        kept = sum(_bytes(value) for segment in plan for value in segment.kept)
        inside = [
            sum(_bytes(v) for node in segment.nodes for v in node.outputs if _bytes(v) >= LARGE)
            for segment in plan
        ]
        return kept + max(inside)

    def _saved(self, value: ir.Value) -> bool:
        return _bytes(value) >= LARGE and bool(self._readers(value))

    def _readers(self, value: ir.Value) -> list[ir.Node]:
        """Backward nodes that read a value of the forward pass."""
        return [use.node for use in value.uses() if use.node not in self.forward]

    def run_again(self, segment: _Segment) -> None:
        """Let the backward pass read copies of what the segment does not keep."""
        values = [value for node in segment.nodes for value in node.outputs]
        lost = [value for value in values if self._saved(value) and value not in segment.kept]
        if not lost:
            return
        readers = {value: self._readers(value) for value in lost}
        first = min((n for nodes in readers.values() for n in nodes), key=self.place.__getitem__)
        zero = self._late_zero(first)
        if zero is None:
            return
        copies: dict[ir.Value, ir.Value] = {}
        for value in lost:
            self._copy(value, set(segment.nodes), zero, copies)
        for value, nodes in readers.items():
            for node in nodes:
                for number, source in enumerate(node.inputs):
                    if source is value:
                        node.replace_input_with(number, copies[value])

    def _copy(
        self,
        value: ir.Value,
        within: set[ir.Node],
        zero: ir.Value,
        copies: dict[ir.Value, ir.Value],
    ) -> ir.Value:
        """A value of the segment once more; small ones, and what is constant, stay as they are."""
        producer = value.producer()
        if value in copies:
            return copies[value]
        if _bytes(value) < LARGE or value.is_initializer():
            return value
        if producer not in within and value.dtype != ir.DataType.FLOAT:
            return value  # no zero can be added to it
        if producer is None or producer not in within:
            copies[value] = self._append("Add", [value, zero], value)
            return copies[value]
        stack = [producer]
        while stack:  # not by recursion: networks are deep
            node = stack[-1]
            waiting = [
                source.producer()
                for source in node.inputs
                if source is not None and self._must_copy(source, within, copies)
            ]
            if waiting:
                stack.extend(node for node in waiting if node is not None)
                continue
            stack.pop()
            if node.outputs[0] in copies:
                continue
            inputs: list[ir.Value | None] = [
                source if source is None else self._copy(source, within, zero, copies)
                for source in node.inputs
            ]
            if not set(inputs) & set(copies.values()):  # all small, yet the copy must wait
                self._delay(inputs, zero)
            attributes = {a.name: a for a in node.attributes.values()}
            outputs = [self._named(ir.Value(), like) for like in node.outputs]
            self.graph.append(ir.node(node.op_type, inputs, attributes, outputs=outputs))
            copies |= dict(zip(node.outputs, outputs, strict=True))
        return copies[value]

    @staticmethod
    def _must_copy(value: ir.Value, within: set[ir.Node], copies: dict[ir.Value, ir.Value]) -> bool:
        made_here = value.producer() is not None and value.producer() in within
        return made_here and _bytes(value) >= LARGE and value not in copies

    def _delay(self, inputs: list[ir.Value | None], zero: ir.Value) -> None:
        """Add the zero to one of the inputs of a node, if any can take it."""
        for number, source in enumerate(inputs):
            if source is None or source.is_initializer() or source.dtype != ir.DataType.FLOAT:
                continue
            inputs[number] = self._append("Add", [source, zero], source)
            return

    def _append(self, operator: str, inputs: list[ir.Value | None], like: ir.Value) -> ir.Value:
        output = self._named(ir.Value(), like)
        self.graph.append(ir.node(operator, inputs, outputs=[output]))
        return output

    def _named(self, value: ir.Value, like: ir.Value) -> ir.Value:
        """With a name of its own, and the shape and type of another."""
        self.names += 1
        value.name, value.shape, value.type = f"again.{self.names}", like.shape, like.type
        return value

    def _late_zero(self, first: ir.Node) -> ir.Value | None:
        """A scalar zero that cannot be known before the backward pass has come to a node.

        It waits for the gradient that has come furthest, and for all small results that are ready
        by then, such as weight gradients, so that what they need is not kept.
        """
        here = self.place[first]
        ready = [
            node
            for node, place in self.place.items()
            if place < here and node not in self.forward and _follows(node, self.forward)
        ]
        waited = [
            node.outputs[0]
            for node in ready
            if 0 < _bytes(node.outputs[0]) < LARGE
            and node.outputs[0].dtype == ir.DataType.FLOAT
            and any(self.place.get(use.node, 0) > here for use in node.outputs[0].uses())
        ]
        gradients = [
            node
            for node in ready
            if _bytes(node.outputs[0]) >= LARGE and node.outputs[0].dtype == ir.DataType.FLOAT
        ]
        if gradients:
            waited.append(max(gradients, key=self.depth.__getitem__).outputs[0])
        if not waited:
            return None
        first_elements = [self._first_element(value) for value in waited]
        total = first_elements[0]
        for element in first_elements[1:]:
            total = self._append("Add", [total, element], total)
        nothing = self._constant(np.float32(0.0))
        return self._append("Clip", [total, nothing, nothing], total)

    def _first_element(self, value: ir.Value) -> ir.Value:
        """As a scalar."""
        rank = len(value.shape or ())
        if rank == 0:
            return value
        bounds = [np.zeros(rank), np.ones(rank), np.arange(rank)]
        part = ir.Value(shape=ir.Shape([1] * rank), type=value.type)
        inputs: list[ir.Value | None] = [value]
        inputs += [self._constant(b.astype(np.int64)) for b in bounds]
        scalar = ir.Value(shape=ir.Shape([]), type=value.type)
        return self._append("Squeeze", [self._append("Slice", inputs, part)], scalar)

    def _constant(self, array: np.ndarray | np.generic) -> ir.Value:
        held = ir.tensor(array)
        value = ir.Value(name=f"late.{len(self.graph.initializers)}", const_value=held)
        value.shape, value.type = ir.Shape(np.shape(array)), ir.TensorType(held.dtype)
        self.graph.initializers.add(value)
        return value


def _follows(node: ir.Node, forward: set[ir.Node]) -> bool:
    """Whether a backward node reads any other backward node; views of activations do not."""
    producers = [source.producer() for source in node.inputs if source is not None]
    return any(p is not None and p not in forward for p in producers)


def _ancestors(roots: Iterable[ir.Node]) -> set[ir.Node]:
    found, waiting = set[ir.Node](), list(roots)
    while waiting:
        node = waiting.pop()
        if node in found:
            continue
        found.add(node)
        producers = [value.producer() for value in node.inputs if value is not None]
        waiting.extend(producer for producer in producers if producer is not None)
    return found


def _bytes(value: ir.Value) -> int:
    """Of a float32 value of known shape; 0 where the shape is not known."""
    if value.shape is None:
        return 0
    sizes = [size for size in value.shape if isinstance(size, int)]
    return 4 * math.prod(sizes) if len(sizes) == len(value.shape) else 0
