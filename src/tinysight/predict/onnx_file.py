"""A trained model in one ONNX file, computed by ONNX Runtime; loads no torch.

The graph takes `images`, uint8 (B, S, S, 3), and gives `logits` (B, K) and, of a localizer, `boxes`
(B, N, T, 4) in pixels of the images and `confidences` (B, N, T), T boxes of each of N cells, and
where boxes have classes their `labels` (B, N, T). The metadata is the entry "tinysight" of the
file's metadata_props, with a checksum over all other bytes: it is compared before anything else is
read.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import onnxruntime

from tinysight.predict.decoding import Decoding, Outputs, UInt8, choose_boxes
from tinysight.predict.metadata import (
    Digest,
    ModelMetadata,
    check_weights_file,
    header_of,
    read_header,
)

KEY = b"tinysight"
INPUT = "images"
OUTPUTS = ["logits", "boxes", "confidences", "labels"]  # a classifier's, a localizer's, of boxes
METADATA_PROPS = 14  # the number of the field in a ModelProto


def outputs_of(metadata: ModelMetadata) -> list[str]:
    """Return the names of what a model's graph gives."""
    return OUTPUTS[: 1 + 2 * bool(metadata.localizer) + metadata.has_box_classes]


def onnx_bytes(body: bytes, metadata: ModelMetadata) -> bytes:
    """Return the content of an ONNX file: a serialized model without metadata, and the metadata."""
    text = header_of(metadata, _digest_of(body)).encode()
    entry = _field(1, KEY) + _field(2, text)
    return body + _field(METADATA_PROPS, entry)


class OnnxNetwork:
    """A model of an ONNX file, on the CPU.

    Raises ValueError when the file is missing, damaged, or not one of tinysight.
    """

    def __init__(self, path: Path) -> None:
        check_weights_file(path)
        content = path.read_bytes()
        body, text = _split(path, content)
        self.metadata = read_header(path, text, _digest_of(body))
        self.outputs = outputs_of(self.metadata)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # an error is raised; what else is logged is for developers
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others decode
        try:
            providers = ["CPUExecutionProvider"]
            self.session = onnxruntime.InferenceSession(content, options, providers=providers)
        except Exception as error:  # of a dozen types, derived from Exception alone
            reason = " ".join(str(error).split())
            update = f"onnxruntime {onnxruntime.__version__} cannot load it"
            raise ValueError(f"{path}: {update} ({reason}); export it again") from None
        self.max_side = size = self.metadata.image_size
        taken = self.session.get_inputs()
        form = [(each.name, each.type, each.shape[1:]) for each in taken]
        given = [each.name for each in self.session.get_outputs()]
        if form != [(INPUT, "tensor(uint8)", [size, size, 3])] or given != self.outputs:
            raise ValueError(f"{path} takes {form} and gives {given}; export it again")

    def __call__(self, images: UInt8, decoding: Decoding | None) -> Outputs:
        """Images (B, S, S, 3), S the metadata's image_size -> what the model computes for them."""
        logits, *found = self.session.run(self.outputs, {INPUT: images})
        if decoding is None:
            return Outputs(logits)
        return Outputs(logits, *choose_boxes(decoding, *found))


def _digest_of(body: bytes) -> Digest:
    def digest(description: dict[str, Any]) -> str:
        sha256 = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
        sha256.update(body)
        return sha256.hexdigest()

    return digest


def _split(path: Path, content: bytes) -> tuple[bytes, str]:
    """Separate the metadata from all other bytes, by the outermost fields of the message."""
    body, text, at = list[bytes](), None, 0
    try:
        while at < len(content):
            start, (tag, at) = at, _varint(content, at)
            number, kind = tag >> 3, tag & 7
            length = 0
            if kind in (0, 2):
                length, at = _varint(content, at)
            at += {0: 0, 1: 8, 2: length, 5: 4}[kind]
            if at > len(content) or not number:
                raise IndexError
            field = content[start:at]
            entry = field[-length:] if number == METADATA_PROPS else b""
            if entry.startswith(_field(1, KEY)):
                size, begin = _varint(entry, len(KEY) + 3)
                text = entry[begin : begin + size].decode()
            else:
                body.append(field)
    except (IndexError, KeyError, UnicodeDecodeError):
        raise ValueError(
            f"{path} is not an ONNX file, or is damaged; copy the file again"
        ) from None
    if text is None:
        expected = "expected one that `tinysight export` wrote"
        raise ValueError(f"{path} has no metadata of tinysight; {expected}")
    return b"".join(body), text


def _field(number: int, content: bytes) -> bytes:
    """Encode a field of bytes of a protocol buffer."""
    return _encoded(number << 3 | 2) + _encoded(len(content)) + content


def _encoded(number: int) -> bytes:
    parts = bytearray()
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes(parts) + bytes([number])


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """Decode a number at a position, and return it with the position after it."""
    number = 0
    for place in range(10):
        byte = content[at + place]
        number |= (byte & 127) << (7 * place)
        if byte < 128:
            return number, at + place + 1
    raise IndexError
