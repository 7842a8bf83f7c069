"""The report's localizer (Wu et al. 2017, section 3.5): an encoder, and a head that predicts boxes.

The encoder is any classifier; its logits come from the same pass. The head divides the image into
`grid` x `grid` cells, more on a larger canvas: it is fully convolutional. With `grid=1` the cell is
the entire image, the literal reading of section 3.5; with `grid=4` each of 16 cells is an example
of its own for one shared decoder, as in the method's paper (Stewart et al. 2016, arXiv:1506.04878).

Heads: `mlp`, one box per cell, the baseline; `lstm`, the report's, 250 hidden units, 5 steps;
`centernet`, a map of centers (Zhou et al. 2019, arXiv:1904.07850), a later alternative. The widths
and the 3x3 convolution in front of the heads are ours.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tinysight.models.classifier import Classifier
from tinysight.models.init import variance_scaling
from tinysight.models.layers import unit
from tinysight.ops.boxes import HeadOutput

HEADS = ("mlp", "lstm", "centernet")
POSITIONS = 4  # features along a side that the cells of a training image see together, at least
HIDDEN = 250


class LocalizerOutput(NamedTuple):
    """Logits (B, K) and the head's raw boxes."""

    logits: Tensor
    candidates: HeadOutput


class Cells(nn.Module):
    """Features (B, F, h, w) -> one vector per cell, (B, R, C, num_features).

    Each of a cell's positions gives `width` features, twice as many where a cell has only one.
    """

    def __init__(self, num_in: int, grid: int, width: int) -> None:
        super().__init__()
        self.patch = max(1, POSITIONS // grid)  # positions along a side of a cell
        width = 2 * width if self.patch == 1 else width
        self.reduce = unit(num_in, width, 3)
        self.num_features = width * self.patch**2

    def forward(self, features: Tensor, rows: int, columns: int) -> Tensor:
        patch, size = self.patch, (rows * self.patch, columns * self.patch)
        if features.shape[-2:] != size:
            features = F.adaptive_avg_pool2d(features, size)
        reduced: Tensor = self.reduce(features)
        batch, width = reduced.shape[:2]
        split = reduced.reshape(batch, width, rows, patch, columns, patch)
        return split.permute(0, 2, 4, 1, 3, 5).reshape(batch, rows, columns, -1)


class _OneBoxHead(nn.Module):
    """A head with one box per cell, read from a vector per cell."""

    def __init__(self, num_hidden: int, num_classes: int) -> None:
        super().__init__()
        self.box = nn.Linear(num_hidden, 4)
        self.confidence = nn.Linear(num_hidden, 1)
        self.classes = nn.Linear(num_hidden, num_classes) if num_classes else None

    def read(self, hidden: Tensor) -> HeadOutput:
        """Read one box per cell, relative to it."""
        boxes, logits = _in_float32(self.box, hidden), _in_float32(self.confidence, hidden)
        classes = None if self.classes is None else _in_float32(self.classes, hidden)
        return HeadOutput(
            boxes[..., None, :], logits, None if classes is None else classes[..., None, :]
        )

    def initialize(self, mean_box: Tensor, prior: float, generator: torch.Generator) -> None:
        """Start at `mean_box` (4,), relative to the cell, and a confidence of `prior`."""
        _set_constant(self.box, self.confidence, mean_box, prior)


class MlpHead(_OneBoxHead):
    """One box per cell, by one hidden layer."""

    def __init__(self, num_in: int, *, grid: int, width: int, num_classes: int = 0) -> None:
        super().__init__(HIDDEN, num_classes)
        self.cells = Cells(num_in, grid, width)
        self.hidden = nn.Linear(self.cells.num_features, HIDDEN)

    def forward(self, features: Tensor, rows: int, columns: int) -> HeadOutput:
        return self.read(F.relu(self.hidden(self.cells(features, rows, columns))))


class LstmHead(nn.Module):
    """One box after another; the same LSTM reads every cell, and its features at every step.

    Args:
        num_steps: T, boxes per cell.
        feedback: whether a step also sees the box of the step before (0 at first).
        shared: whether all steps share the layers that read box, confidence and class.
    """

    def __init__(
        self,
        num_in: int,
        *,
        grid: int,
        width: int,
        num_steps: int,
        feedback: bool,
        shared: bool,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        self.cells = Cells(num_in, grid, width)
        self.num_steps, self.feedback = num_steps, feedback
        self.lstm = nn.LSTMCell(self.cells.num_features + 4 * feedback, HIDDEN)
        num_layers = 1 if shared else num_steps
        self.box = nn.ModuleList([nn.Linear(HIDDEN, 4) for _ in range(num_layers)])
        self.confidence = nn.ModuleList([nn.Linear(HIDDEN, 1) for _ in range(num_layers)])
        own = range(num_layers if num_classes else 0)
        self.classes = nn.ModuleList([nn.Linear(HIDDEN, num_classes) for _ in own])

    def forward(self, features: Tensor, rows: int, columns: int) -> HeadOutput:
        """Features -> boxes relative to their cell."""
        cells = self.cells(features, rows, columns)
        batch = cells.shape[0]  # not len(), which an export to ONNX would freeze
        cells = cells.flatten(0, 2)  # each cell is an example
        state: tuple[Tensor, Tensor] | None = None
        box = cells.new_zeros(cells.shape[0], 4)
        boxes, logits, classes = [], [], []
        for step in range(self.num_steps):
            inputs = torch.cat((cells, box), dim=1) if self.feedback else cells
            state = self.lstm(inputs, state)
            layer = min(step, len(self.box) - 1)
            box = _in_float32(self.box[layer], state[0])
            boxes.append(box)
            logits.append(_in_float32(self.confidence[layer], state[0]))
            if self.classes:
                classes.append(_in_float32(self.classes[layer], state[0]))

        def stacked(steps: list[Tensor]) -> Tensor:
            return torch.stack(steps, dim=1).view(batch, rows, columns, self.num_steps, -1)

        own = stacked(classes) if self.classes else None
        return HeadOutput(stacked(boxes), stacked(logits)[..., 0], own)

    def initialize(self, mean_box: Tensor, prior: float, generator: torch.Generator) -> None:
        """Start at `mean_box` (4,), relative to the cell, and a confidence of `prior`."""
        bound = 1 / math.sqrt(HIDDEN)
        for parameter in self.lstm.parameters():
            nn.init.uniform_(parameter, -bound, bound, generator=generator)
        for box, confidence in zip(self.box, self.confidence, strict=True):
            assert isinstance(box, nn.Linear) and isinstance(confidence, nn.Linear)
            _set_constant(box, confidence, mean_box, prior)


class CenterHead(_OneBoxHead):
    """A confidence and a box at each position of a finer map, upsampled from the features."""

    def __init__(self, num_in: int, *, grid: int, num_classes: int = 0) -> None:
        super().__init__(64, num_classes)
        self.coarse = unit(num_in, 256, 3)
        self.middle = unit(256, 128, 3)
        self.fine = unit(128, 64, 3)

    def forward(self, features: Tensor, rows: int, columns: int) -> HeadOutput:
        x, half = self.coarse(features), (-(-rows // 2), -(-columns // 2))
        for layer, size in ((self.middle, half), (self.fine, (rows, columns))):
            x = layer(F.interpolate(x, size=size, mode="bilinear", align_corners=False))
        return self.read(x.permute(0, 2, 3, 1))


class Localizer(nn.Module):
    """Images (B, 3, H, W) in 0..255 -> `LocalizerOutput`.

    Args:
        encoder: the classifier that features and logits come from.
        head: one of HEADS.
        grid: cells along a side of the training image.
        width: features of a position, see `Cells`; not of the map of centers.
        num_steps, feedback, shared: see `LstmHead`.
        frozen: whether the layers of the features are fixed: no gradient, norms by their running
            statistics.
        classifies: whether the encoder's own head is trained, also with frozen features.
        num_classes: K, of boxes; 0: they have no class.
    """

    def __init__(
        self,
        encoder: Classifier,
        *,
        head: str,
        grid: int,
        width: int = 128,
        num_steps: int = 5,
        feedback: bool = False,
        shared: bool = False,
        frozen: bool = False,
        classifies: bool = True,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(not frozen)
        encoder.head.requires_grad_(classifies)
        self.grid, self.frozen = grid, frozen
        num_in = encoder.num_features
        self.head: MlpHead | LstmHead | CenterHead
        own: dict[str, Any] = {"grid": grid, "num_classes": num_classes}
        if head == "mlp":
            self.head = MlpHead(num_in, width=width, **own)
        elif head == "lstm":
            own |= {"num_steps": num_steps, "feedback": feedback, "shared": shared}
            self.head = LstmHead(num_in, width=width, **own)
        elif head == "centernet":
            self.head = CenterHead(num_in, **own)
        else:
            raise ValueError(f"no head is named {head!r}; there are {', '.join(HEADS)}")

    def initialize(
        self, mean_box_cxcywh: Tensor, *, prior: float, generator: torch.Generator
    ) -> None:
        """Initialize the head so that every cell predicts the mean box, in sides of the image.

        With one cell that is the mean box (4,) itself, with several a box of its size at the
        center of each cell.
        """
        variance_scaling(self.head, generator=generator)
        start = mean_box_cxcywh.clone()
        start[:2] = start[:2] - 0.5 if self.grid == 1 else 0.0
        self.head.initialize(start, prior, generator)

    def train(self, mode: bool = True) -> Localizer:
        """Set training or evaluation mode; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def forward(self, images: Tensor, rows: float = 1.0, columns: float = 1.0) -> LocalizerOutput:
        """Images (B, 3, H, W) in 0..255 -> `LocalizerOutput`.

        Args:
            rows, columns: height and width of the canvas in sides of the training image.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features = self.encoder.forward_features(images)
        logits = self.encoder.forward_head(features)
        num_rows, num_columns = (max(1, round(self.grid * sides)) for sides in (rows, columns))
        boxes, confidence, classes = self.head(features, num_rows, num_columns)
        centers = _cell_centers(num_rows, num_columns, rows, columns).to(boxes)
        # Cells of a canvas that is not a multiple of a cell differ in size from those of training;
        # all is seen, and predicted, larger or smaller by as much.
        stretch = boxes.new_tensor([columns / num_columns, rows / num_rows] * 2) * self.grid
        boxes = boxes * stretch
        absolute = torch.cat((boxes[..., :2] + centers[:, :, None], boxes[..., 2:]), dim=-1)
        return LocalizerOutput(logits, HeadOutput(absolute, confidence, classes))


def _in_float32(layer: nn.Module, hidden: Tensor) -> Tensor:
    """Apply a layer in float32, under autocast too: bf16 rounds a box to a quarter of a pixel."""
    with torch.autocast(hidden.device.type, enabled=False):
        output: Tensor = layer(hidden.float())
    return output


def _set_constant(box: nn.Linear, confidence: nn.Linear, mean_box: Tensor, prior: float) -> None:
    """Let both layers ignore their input until they have learned."""
    with torch.no_grad():
        box.weight.zero_()
        confidence.weight.zero_()
        box.bias.copy_(mean_box)
        confidence.bias.fill_(math.log(prior / (1 - prior)))


def _cell_centers(num_rows: int, num_columns: int, rows: float, columns: float) -> Tensor:
    """Return centers (x, y) (R, C, 2) of cells that divide a canvas of rows x columns sides."""
    y = (torch.arange(num_rows) + 0.5) * (rows / num_rows)
    x = (torch.arange(num_columns) + 0.5) * (columns / num_columns)
    return torch.stack((x.expand(num_rows, -1), y[:, None].expand(-1, num_columns)), dim=-1)
