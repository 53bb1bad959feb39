"""A segmenter and a head that need no training, sealed in the store of a `Shop`."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from retrieval_core.artifacts.manifests import Head, Segmenter
from retrieval_core.artifacts.parts import put_parts
from retrieval_core.head.apply import WEIGHTS_FILE, save_head
from retrieval_core.mask.train import ONNX_FILE

MASK_PX = 64


def seal_segmenter(shop: Any) -> Segmenter:
    """Seal a segmenter that takes every pixel brighter than mid-grey for the product."""
    shape = ["n", MASK_PX, MASK_PX]
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "axis"], ["brightness"], keepdims=0),
        helper.make_node("Div", ["brightness", "white"], ["probability"]),
    ]
    graph = helper.make_graph(
        nodes,
        "segmenter",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, [*shape, 3])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor("axis", TensorProto.INT64, [1], [3]),
            helper.make_tensor("white", TensorProto.FLOAT, [], [255.0]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, shop.folder / ONNX_FILE)
    parts = put_parts(shop.store, f"{Segmenter.folder}/bright", {ONNX_FILE: shop.folder / ONNX_FILE})
    return Segmenter(fingerprint="bright", parts=parts, val_iou=0.5).seal(shop.store)


def seal_head(shop: Any) -> Head:
    """Seal a head of random weights for vectors of the shop's backbone."""
    rng, dim = np.random.default_rng(0), 128
    shapes = {"mean": (dim,), "std": (dim,), "hidden.weight": (dim, dim), "hidden.bias": (dim,)}
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    save_head(weights | {"std": np.abs(weights["std"])}, shop.folder / WEIGHTS_FILE)
    parts = put_parts(shop.store, f"{Head.folder}/any", {WEIGHTS_FILE: shop.folder / WEIGHTS_FILE})
    return Head(fingerprint="any", variant="masked", parts=parts, input_dim=dim, dim=dim).seal(shop.store)
