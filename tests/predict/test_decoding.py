"""How candidates become boxes, whichever engine computed them."""

from __future__ import annotations

import numpy as np

from tinysight.predict.decoding import Decoding, choose_boxes


def test_an_image_of_many_small_objects_keeps_them_all() -> None:
    corners = 4.0 * np.arange(60, dtype=np.float32)[:, None]
    boxes = np.concatenate((corners, corners, corners + 3, corners + 3), axis=1)
    confidence = np.linspace(0.9, 0.6, 60, dtype=np.float32)
    decoding = Decoding(decoding="filter", threshold=0.5, nms_iou=0.5)
    found, sure, labels = choose_boxes(decoding, boxes[None, :, None], confidence[None, :, None])
    assert np.array_equal(found[0], boxes) and np.array_equal(sure[0], confidence)
    assert labels is None
