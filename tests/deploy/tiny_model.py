"""A model like those of notebook 05, made without training: it tells red, green and blue images apart."""

import json

import numpy as np
import onnx
from onnx import TensorProto, helper

SIZE = 32
ABOUT = {"classes": ["red", "green <b>", 'blue, "sky"'], "size": SIZE, "positive": -1, "threshold": 0.5}


def write(folder, **about):
    """model.onnx in `folder`: evidence = pixels / 16, its mean through a softmax = probabilities."""
    folder.mkdir(exist_ok=True)
    weights = helper.make_tensor("w", TensorProto.FLOAT, (3, 3), (np.eye(3) / 16).flatten())
    axes = helper.make_tensor("axes", TensorProto.INT64, (2,), (1, 2))
    nodes = [
        helper.make_node("MatMul", ["images", "w"], ["evidence"]),
        helper.make_node("ReduceMean", ["evidence", "axes"], ["logits"], keepdims=0),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
    ]
    shapes = {"images": ("n", SIZE, SIZE, 3), "probabilities": ("n", 3), "evidence": ("n", SIZE, SIZE, 3)}
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    graph = helper.make_graph(nodes, "colours", infos[:1], infos[1:], [weights, axes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {"own_images": json.dumps(ABOUT | about)} if about else {})
    onnx.save(model, folder / "model.onnx")
    return folder
