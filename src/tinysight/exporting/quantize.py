"""An ONNX graph with the weights and activations of its products as 8-bit integers.

Static quantization per output channel, the range of each activation measured on training images,
written as QuantizeLinear and DequantizeLinear around float operators, which every runtime knows.
Weights have 7 bits: the products of two neighbors then fit the 16 bits in which processors without
VNNI add them, so that every machine gives the same answer (measured on the bundled model: no worse
than 8 bits). What is not a product stays in float: it costs little, and boxes keep their precision.
"""

from __future__ import annotations

import logging
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from tinysight.predict.decoding import UInt8
from tinysight.predict.onnx_file import INPUT

NUM_IMAGES = 512  # whose activations are measured
BATCH_SIZE = 32
OPERATORS = ["Conv", "Gemm", "MatMul"]


def quantize(body: bytes, images: UInt8) -> bytes:
    """Return a graph of `exporting.graph.trace` quantized by images (N, S, S, 3)."""
    from onnxruntime import quantization as ort

    with TemporaryDirectory() as folder, _quiet():
        path, out = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        path.write_bytes(body)
        ort.quantize_static(
            path,
            out,
            _Reader(images),
            quant_format=ort.QuantFormat.QDQ,
            op_types_to_quantize=OPERATORS,
            per_channel=True,
            reduce_range=True,
            activation_type=ort.QuantType.QUInt8,
            weight_type=ort.QuantType.QInt8,
            calibrate_method=ort.CalibrationMethod.MinMax,
        )
        return out.read_bytes()


class _Reader:
    """Images as the quantizer asks for them."""

    def __init__(self, images: UInt8) -> None:
        self.batches = iter(np.split(images, range(BATCH_SIZE, len(images), BATCH_SIZE)))

    def get_next(self) -> dict[str, UInt8] | None:
        batch = next(self.batches, None)
        return None if batch is None else {INPUT: batch}


class _quiet(logging.NullHandler):  # noqa: N801 (a context)
    """Keep the quantizer, which logs to the root logger, from printing and from setting it up."""

    def __enter__(self) -> None:
        logging.getLogger().addHandler(self)

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self)
