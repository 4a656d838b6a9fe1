"""ONNX Runtime, on the CPU or with another of its execution providers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnxruntime

from edgemem.block import Array, Arrays
from edgemem.bundle.checked_files import Files, OwnFiles
from edgemem.bundle.manifest import Binding
from edgemem.errors import BundleError
from edgemem.forks import never_free_in_child
from edgemem.runtime.engines.onnx_loading import loaded
from edgemem.runtime.engines.process_memory import give_back_freed
from edgemem.runtime.engines.protocol import TensorSpec
from edgemem.runtime.engines.providers import PROVIDERS, qnn_devices
from edgemem.runtime.engines.session_cache import GRAPH, WEIGHTS, SessionCache

CPU = PROVIDERS["cpu"].execution_provider
EXTENDED = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED  # all, but for image layouts
# What the report of an export was checked for, and what a graph for one batch size allows.
OPTIONS = {"coreml": {"ModelFormat": "MLProgram", "RequireStaticInputShapes": "1"}}
DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int8)": "int8",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}


class OnnxRuntimeGraph:
    """One session.

    files: where its bytes come from. skipped: optimisers to leave out. mapped: weights stay in the
    file. providers: in order of preference; empty = as the options say. must: the one that has to
    take at least one node.
    """

    def __init__(
        self,
        path: Path,
        options: onnxruntime.SessionOptions,
        files: Files,
        *,
        skipped: Sequence[str] = (),
        mapped: bool = False,
        providers: Sequence[str | tuple[str, dict[str, str]]] = (CPU,),
        must: str | None = None,
    ) -> None:
        self._thing = f"{path.parent.name}/{path.name}"
        try:
            with loaded(path, files, options, mapped=mapped) as content:
                self._session = onnxruntime.InferenceSession(
                    content,
                    options,
                    providers=list(providers) or None,
                    disabled_optimizers=list(skipped),
                    enable_fallback=0,  # onnxruntime's own goes on with the CPU without a word
                )
        except BundleError:
            raise
        except Exception as error:
            raise BundleError(
                self._thing,
                f"is refused by onnxruntime {onnxruntime.__version__} ({error})",
                "Update onnxruntime, or export the bundle again",
            ) from error
        if must is not None and not self.nodes.get(must):
            raise BundleError(
                self._thing, f"has no node that {must} takes", "Use another provider, or auto"
            )
        self.inputs: Mapping[str, TensorSpec] = {
            value.name: TensorSpec(
                tuple(size if isinstance(size, int) else None for size in value.shape),
                DTYPES.get(value.type, value.type),
            )
            for value in self._session.get_inputs()
        }
        self.outputs = tuple(value.name for value in self._session.get_outputs())
        never_free_in_child(self)

    def run(self, feeds: Mapping[str, Array]) -> Arrays:
        """All outputs by name."""
        try:
            values = self._session.run(None, feeds)
        except Exception as error:
            raise BundleError(
                self._thing, f"fails to run ({error})", "Export the bundle again"
            ) from error
        return dict(zip(self.outputs, values, strict=True))

    @property
    def nodes(self) -> dict[str, int]:
        """How many nodes each execution provider took; only of sessions that recorded it."""
        found: Counter[str] = Counter()
        for part in self._session.get_provider_graph_assignment_info():
            found[part.ep_name] += len(part.get_nodes())
        return dict(found)


class OnnxRuntimeBackend:
    """Opens sessions with one set of options.

    Reasons for them: docs/benchmarks/performance.md.

    threads: 0 = onnxruntime's choice, which is all cores. profile: "latency", or "memory", where
    weights stay in the mapped file and nothing is kept from one run to the next. cache: where
    optimised and compiled graphs are kept; None = nowhere, as in profile "memory", which hardly
    optimises. provider: a name of `PROVIDERS`; profiles are of the CPU's. files: where graphs and
    weights come from; None = they are our own, and nobody vouches for them.
    """

    def __init__(
        self,
        threads: int = 0,
        profile: str = "latency",
        cache: SessionCache | None = None,
        provider: str = "cpu",
        files: Files | None = None,
    ) -> None:
        self._threads, self._profile = threads, profile
        self._files = files or OwnFiles()
        self._cache = cache if profile == "latency" or provider != "cpu" else None
        self._provider = PROVIDERS[provider]
        self._opened: dict[Path, OnnxRuntimeGraph] = {}
        self.target = self._provider.target
        where = self._provider.execution_provider
        self.name = f"onnxruntime {onnxruntime.__version__}, {where}"

    def open(self, path: Path, binding: Binding | None = None) -> OnnxRuntimeGraph:
        """Open a graph file, each once; raises BundleError."""
        if path not in self._opened:
            here = self._provider.name == "cpu"
            self._opened[path] = self._open_here(path) if here else self._open_elsewhere(path)
            give_back_freed()  # the engine has made its own of the weights
        return self._opened[path]

    def _open_here(self, path: Path) -> OnnxRuntimeGraph:
        options, files = self._options(), self._files
        if self._profile == "memory":
            options.graph_optimization_level = EXTENDED
            options.enable_cpu_mem_arena = False
            options.add_session_config_entry("session.disable_prepacking", "1")
            skipped = ["ConstantFolding"]
            return OnnxRuntimeGraph(path, options, files, skipped=skipped, mapped=True)
        if self._cache is None:
            return OnnxRuntimeGraph(path, options, files)
        if (kept := self._cache.find(path.stem)) is None:
            graph = OnnxRuntimeGraph(path, options, files)
            self._cache.keep(path.stem, lambda draft: self._optimise(path, draft))
            return graph
        as_it_is = self._options()
        as_it_is.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            return OnnxRuntimeGraph(kept.path, as_it_is, kept)
        except BundleError:  # refused: the bundle itself is still there
            return OnnxRuntimeGraph(path, options, files)

    def _optimise(self, path: Path, draft: Path) -> None:
        options = self._options()
        options.optimized_model_filepath = str(draft / GRAPH)
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", WEIGHTS
        )
        OnnxRuntimeGraph(path, options, self._files)

    def _open_elsewhere(self, path: Path) -> OnnxRuntimeGraph:
        """With another execution provider first, and the CPU for what that does not take."""
        name = self._provider.execution_provider
        if self._provider.name != "qnn":
            first = (name, OPTIONS.get(self._provider.name, {}))
            providers: list[str | tuple[str, dict[str, str]]] = [first, CPU]
            options = self._recording()
            return OnnxRuntimeGraph(path, options, self._files, providers=providers, must=name)
        options = self._with_npu()
        kept = None if self._cache is None else self._cache.find(path.stem)
        if kept is None and self._cache is not None:
            self._cache.keep(path.stem, lambda draft: self._compile(path, draft))
            kept = self._cache.find(path.stem)
        if kept is not None:
            try:
                return OnnxRuntimeGraph(kept.path, options, kept, providers=(), must=name)
            except BundleError:  # the bundle itself is still there
                options = self._with_npu()
        return OnnxRuntimeGraph(path, options, self._files, providers=(), must=name)

    def _compile(self, path: Path, draft: Path) -> None:
        options = self._with_npu()
        options.add_session_config_entry("ep.context_enable", "1")
        options.add_session_config_entry("ep.context_file_path", str(draft / GRAPH))
        options.add_session_config_entry("ep.context_embed_mode", "1")
        OnnxRuntimeGraph(path, options, self._files, providers=())

    def _with_npu(self) -> onnxruntime.SessionOptions:
        options, (devices, chosen) = self._recording(), qnn_devices()
        options.add_provider_for_devices(devices, chosen)
        return options

    def _recording(self) -> onnxruntime.SessionOptions:
        options = self._options()
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        return options

    def _options(self) -> onnxruntime.SessionOptions:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # its errors are raised, its advice is for us
        # A pattern of all tensors is allocated beside the arena, not instead of it.
        options.enable_mem_pattern = False
        # Threads of a session that has finished would spin on the cores that the next one needs.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        return options
