"""A page of one file that runs a model in a browser, from disk and without a network.

It holds the model and ONNX Runtime Web (`web/`, MIT, unmodified: the JavaScript and the WebAssembly
of onnxruntime-web 1.30.0, gzipped), which are part of the package so that the page can be made
where no network is, either. Its content security policy allows its own script and style by their
checksums, and nothing else: the page cannot load or send anything.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import re
from pathlib import Path
from typing import Any

from tinysight.predict.metadata import ModelMetadata

WEB = Path(__file__).with_name("web")
SHARED = WEB.parent.parent / "web"
WASM = "ort-wasm-simd-threaded.wasm.gz"
POLICY = (
    "default-src 'none'; script-src '{script}' 'wasm-unsafe-eval'; style-src '{style}'; "
    "img-src blob: data:; media-src blob:; base-uri 'none'; form-action 'none'"
)


def page_of(model: bytes, metadata: ModelMetadata) -> bytes:
    """Return the page of an ONNX file of tinysight."""
    style, script = _text("page.css"), _runtime() + _shared("saving.js") + _text("page.js")
    hashes = {"script": _hash(script), "style": _hash(style)}
    values = {
        "policy": POLICY.format(**hashes),
        "title": html.escape(f"{metadata.recipe}, {metadata.data}"),
        "about": html.escape(metadata.describe()),
        "style": style,
        "script": script,
        "metadata": json.dumps(_for_page(metadata)).replace("<", "\\u003c"),
        "wasm": base64.b64encode((WEB / WASM).read_bytes()).decode(),
        "model": base64.b64encode(gzip.compress(model, mtime=0)).decode(),
    }
    parts = re.split(r"\{\{(\w+)\}\}", _text("page.html"))  # once: values may hold braces, too
    parts[1::2] = [values[name] for name in parts[1::2]]
    return "".join(parts).encode()


def _for_page(metadata: ModelMetadata) -> dict[str, Any]:
    names = ("class_names", "image_size", "fit", "classifies", "has_box_classes", "none_below")
    own = {name: getattr(metadata, name) for name in names}
    return own | {"localizer": metadata.localizer or None}


def _runtime() -> str:
    """Return ONNX Runtime Web as a script that defines `ort`: it is a module with exports."""
    text, exports, _ = re.split(r"export\{([^}]*)\};", _text("ort.wasm.bundle.min.mjs"))
    pairs = (each.split(" as ") for each in exports.split(","))
    return text + "const ort={" + ",".join(f"{name}:{own}" for own, name in pairs) + "};\n"


def _shared(name: str) -> str:
    """Return a module that the page of `tinysight serve` has, too, as part of a script."""
    text = (SHARED / name).read_text(encoding="utf-8")
    return re.sub(r"^export ", "", text, flags=re.MULTILINE)


def _text(name: str) -> str:
    return (WEB / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
