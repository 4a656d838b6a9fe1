"""A graph as the exporter writes it, in fewer nodes: constants computed, idle nodes left out.

As `onnxscript.optimizer.optimize_ir` does it, but for the rule that makes one Split of two Slices:
it lists the whole graph anew at every node. Rules for operators that a graph has not are not tried.
And what is added or multiplied is idle only if it is exactly 0 or 1: by onnxscript's own rules all
up to 1e-8 is nothing, such as the epsilon of a norm of small numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import onnx_ir as ir
from onnx_ir.passes import Sequential
from onnx_ir.passes.common import (
    CommonSubexpressionEliminationPass,
    DeduplicateInitializersPass,
    InlinePass,
    LiftConstantsToInitializersPass,
    LiftSubgraphInitializersToMainGraphPass,
    NameFixPass,
    OutputFixPass,
    RemoveUnusedNodesPass,
)
from onnxscript.optimizer import fold_constants
from onnxscript.rewriter import RewriteRule, RewriteRuleSet, rewrite
from onnxscript.rewriter.pattern import Constant
from onnxscript.rewriter.rules import common

from edgemem.export.lowering.rewrite import worth_folding


def _idle(pattern: Callable[[Any, Any], Any]) -> RewriteRule:
    return RewriteRule(pattern, lambda op, x, **_: op.Identity(x))


def _exactly(value: float) -> Constant:
    return Constant(value, rel_tol=0.0, abs_tol=0.0)


# By the operator of the node that a rule replaces; in the order in which onnxscript tries them.
RULES: Mapping[str, tuple[RewriteRule, ...]] = {
    "Mul": tuple(_idle(lambda op, x: op.Mul(x, _exactly(1.0))).commute()),
    "Add": tuple(_idle(lambda op, x: op.Add(x, _exactly(0.0))).commute()),
    "Sub": (_idle(lambda op, x: op.Sub(x, _exactly(0.0))),),
    "Div": (_idle(lambda op, x: op.Div(x, _exactly(1.0))),),
    "Dropout": (common.dropout_zero_rule, common.dropout_inference_rule),
    "Reshape": (
        common.two_reshapes_matmul_reshape_rule,
        common.one_reshape_matmul_reshape_rule,
        common.materialize_reshape_shape_rule,
        common.reshape_reshape_rule,
        common.squeeze_reshape_1d_rule,
    ),
    "Cast": (
        common.cast_constant_of_shape_rule,
        common.cast_constant_of_shape_without_value_rule,
        common.cast_cast_rule,
        common.no_op_cast_rule,
    ),
    "Slice": (common.collapse_slice_rule, common.collapse_slice2_rule),
    "Min": (common.min_min_rule, common.max_min_rule),
    "Max": (common.max_max_rule, common.min_max_rule),
    "Clip": (common.successive_clip_relu_rule, common.successive_clip_rule),
    "Relu": (common.successive_relu_clip_rule, common.successive_relu_rule),
    "Expand": (common.no_op_expand_rule,),
    "Flatten": (common.flatten_to_reshape_rule,),
    "Transpose": (common.no_op_transpose_rule, common.transpose_transpose_rule),
    "Unsqueeze": (common.unsqueeze_unsqueeze_rule,),
    "ScatterND": (common.no_op_dynamic_scatter_nd_rule, common.no_op_static_scatter_nd_rule),
    "Conv": (
        common.normalize_pad_format_conv_rule,
        common.fuse_pad_into_conv_rule,
        common.remove_optional_bias_from_conv_rule,
    ),
    "BatchNormalization": (
        common.fuse_batchnorm_into_conv_rule,
        common.fuse_batchnorm_into_conv_transpose_rule,
        common.fuse_batchnorm_into_gemm_rule,
    ),
    "ConvTranspose": (common.remove_optional_bias_from_conv_transpose_rule,),
    "Gemm": (common.remove_optional_bias_from_gemm_rule,),
}


def simplify(model: ir.Model) -> None:
    """Change a model in place; it computes the same."""
    InlinePass()(model)
    fold_constants(model, onnx_shape_inference=True, should_fold=worth_folding)
    found = {node.op_type for node in model.graph}
    rules = [rule for operator, own in RULES.items() if operator in found for rule in own]
    rewrite(model, pattern_rewrite_rules=RewriteRuleSet(rules))
    Sequential(
        RemoveUnusedNodesPass(),
        LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        LiftSubgraphInitializersToMainGraphPass(),
        DeduplicateInitializersPass(),
        CommonSubexpressionEliminationPass(),
        OutputFixPass(),
        NameFixPass(),
    )(model)
