"""The report's localizer (Wu et al. 2017, section 3.5): an encoder, and a head that emits boxes
with confidences.

Any classifier of the project is the encoder; its logits come from the same pass. A head reads the
feature map by cells, `grid` of them along a side of the training image; more on a larger canvas, so
that everything is convolutional. With `grid=1` a cell is the whole training image, the literal
reading of section 3.5; with `grid=4` each of 16 cells is an example of its own for one shared
decoder, as in the method's paper (Stewart et al. 2016, arXiv:1506.04878) and its code. A cell of
the former sees the features' positions (4 x 4 of them), one of the latter its own and the
neighbors'.

Heads: `mlp`, one box a cell, the baseline; `lstm`, the report's, 250 hidden units, 5 steps;
`centernet`, a map of centers (Zhou et al. 2019, arXiv:1904.07850), the alternative of a later
day. The head's width and the 3x3 convolution that brings the features to it are ours."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tinysight.models.init import variance_scaling
from tinysight.models.layers import unit
from tinysight.ops.boxes import HeadOutput

HEADS = ("mlp", "lstm", "centernet")
POSITIONS = 4  # features a side that the cells of a training image see together, at least
HIDDEN = 250


class LocalizerOutput(NamedTuple):
    """What a localizer says of images: logits (B, K), and candidate boxes; see `ops.boxes`."""

    logits: Tensor
    candidates: HeadOutput


class Cells(nn.Module):
    """Features (B, F, h, w) -> a vector a cell, (B, R, C, num_features)."""

    def __init__(self, num_in: int, grid: int) -> None:
        super().__init__()
        self.patch = max(1, POSITIONS // grid)  # positions a side within a cell
        width = 256 if self.patch == 1 else 128
        self.reduce = unit(num_in, width, 3)
        self.num_features = width * self.patch**2

    def forward(self, features: Tensor, rows: int, columns: int) -> Tensor:
        patch = self.patch
        wanted = (rows * patch, columns * patch)
        if features.shape[-2:] != wanted:
            features = F.adaptive_avg_pool2d(features, wanted)
        reduced: Tensor = self.reduce(features)
        batch, width = reduced.shape[:2]
        split = reduced.reshape(batch, width, rows, patch, columns, patch)
        cells: Tensor = split.permute(0, 2, 4, 1, 3, 5).reshape(batch, rows, columns, -1)
        return cells


class MlpHead(nn.Module):
    """One box a cell, by one hidden layer: the honest baseline."""

    def __init__(self, num_in: int, *, grid: int) -> None:
        super().__init__()
        self.cells = Cells(num_in, grid)
        self.hidden = nn.Linear(self.cells.num_features, HIDDEN)
        self.box = nn.Linear(HIDDEN, 4)
        self.confidence = nn.Linear(HIDDEN, 1)

    def forward(self, features: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """Features (B, F, h, w) -> boxes relative to their cell (B, R, C, 1, 4) and confidence
        logits (B, R, C, 1).
        """
        hidden = F.relu(self.hidden(self.cells(features, rows, columns)))
        return _read(self.box, hidden)[..., None, :], _read(self.confidence, hidden)

    def start_at(self, mean_box: Tensor, prior: float, generator: torch.Generator) -> None:
        """Let every answer begin as `mean_box` (4,), relative to its cell, at a confidence of
        `prior`.
        """
        _start(self.box, self.confidence, mean_box, prior)


class LstmHead(nn.Module):
    """Boxes one after another, each cell's by the same LSTM, which sees the cell's features at
    every step.

    Args:
        num_steps: T, the longest sequence.
        feedback: whether a step also sees the box before it (0 at first).
        shared: whether all steps share the layers that read box and confidence off the hidden
    state."""

    def __init__(
        self, num_in: int, *, grid: int, num_steps: int, feedback: bool, shared: bool
    ) -> None:
        super().__init__()
        self.cells = Cells(num_in, grid)
        self.num_steps, self.feedback = num_steps, feedback
        self.lstm = nn.LSTMCell(self.cells.num_features + 4 * feedback, HIDDEN)
        self.box = nn.ModuleList([nn.Linear(HIDDEN, 4) for _ in range(1 if shared else num_steps)])
        self.confidence = nn.ModuleList(
            [nn.Linear(HIDDEN, 1) for _ in range(1 if shared else num_steps)]
        )

    def forward(self, features: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """Features (B, F, h, w) -> boxes relative to their cell (B, R, C, T, 4) and confidence
        logits (B, R, C, T).
        """
        cells = self.cells(features, rows, columns)
        batch = len(cells)
        cells = cells.flatten(0, 2)  # each cell is an example
        state: tuple[Tensor, Tensor] | None = None
        box = cells.new_zeros(len(cells), 4)
        boxes, logits = [], []
        for step in range(self.num_steps):
            seen = torch.cat((cells, box), dim=1) if self.feedback else cells
            state = self.lstm(seen, state)
            layer = min(step, len(self.box) - 1)
            box = _read(self.box[layer], state[0])
            boxes.append(box)
            logits.append(_read(self.confidence[layer], state[0])[:, 0])
        shape = (batch, rows, columns, self.num_steps)
        return torch.stack(boxes, dim=1).view(*shape, 4), torch.stack(logits, dim=1).view(shape)

    def start_at(self, mean_box: Tensor, prior: float, generator: torch.Generator) -> None:
        """Let every answer begin as `mean_box` (4,), relative to its cell, at a confidence of
        `prior`.
        """
        bound = 1 / math.sqrt(HIDDEN)
        for parameter in self.lstm.parameters():
            nn.init.uniform_(parameter, -bound, bound, generator=generator)
        for box, confidence in zip(self.box, self.confidence, strict=True):
            assert isinstance(box, nn.Linear) and isinstance(confidence, nn.Linear)
            _start(box, confidence, mean_box, prior)


class CenterHead(nn.Module):
    """A confidence and a box at every cell of a finer map, made of the features by widening it
    twice.
    """

    def __init__(self, num_in: int, *, grid: int) -> None:
        super().__init__()
        self.coarse = unit(num_in, 256, 3)
        self.middle = unit(256, 128, 3)
        self.fine = unit(128, 64, 3)
        self.box = nn.Linear(64, 4)
        self.confidence = nn.Linear(64, 1)

    def forward(self, features: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """Features (B, F, h, w) -> boxes relative to their cell (B, R, C, 1, 4) and confidence
        logits (B, R, C, 1).
        """
        x = self.coarse(features)
        x = self.middle(_resized(x, -(-rows // 2), -(-columns // 2)))
        x = self.fine(_resized(x, rows, columns)).permute(0, 2, 3, 1)
        return _read(self.box, x)[..., None, :], _read(self.confidence, x)

    def start_at(self, mean_box: Tensor, prior: float, generator: torch.Generator) -> None:
        """Let every answer begin as `mean_box` (4,), relative to its cell, at a confidence of
        `prior`.
        """
        _start(self.box, self.confidence, mean_box, prior)


class Localizer(nn.Module):
    """Images (B, 3, H, W) in 0..255 -> `LocalizerOutput`.

    Args:
        encoder: a classifier of the project, which gives features and logits.
        head: of HEADS.
        grid: cells along a side of the training image.
        num_steps, feedback, shared: of the LSTM.
        frozen: whether what makes the features stays as it is: no gradient, norms by their running
            statistics.
        classifies: whether the classifier's last part learns, frozen features or not.
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        head: str,
        grid: int,
        num_steps: int = 5,
        feedback: bool = False,
        shared: bool = False,
        frozen: bool = False,
        classifies: bool = True,
    ) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(not frozen)
        encoder.head.requires_grad_(classifies)
        self.grid, self.frozen = grid, frozen
        num_in: int = encoder.num_features  # type: ignore[assignment]
        self.head: MlpHead | LstmHead | CenterHead
        if head == "mlp":
            self.head = MlpHead(num_in, grid=grid)
        elif head == "lstm":
            self.head = LstmHead(
                num_in, grid=grid, num_steps=num_steps, feedback=feedback, shared=shared
            )
        elif head == "centernet":
            self.head = CenterHead(num_in, grid=grid)
        else:
            raise ValueError(f"no head is named {head!r}; there are {', '.join(HEADS)}")

    def initialize(
        self, mean_box_cxcywh: Tensor, *, prior: float, generator: torch.Generator
    ) -> None:
        """Draw the head's weights; its answers begin as the mean box (4,), in sides of the image,
        moved to each cell.

        With one cell that is the mean box itself; with several each cell begins with that size
        at its own middle."""
        variance_scaling(self.head, generator=generator)
        start = mean_box_cxcywh.clone()
        start[:2] = start[:2] - 0.5 if self.grid == 1 else 0.0
        self.head.start_at(start, prior, generator)

    def train(self, mode: bool = True) -> Localizer:
        """Set the mode of training; a frozen encoder stays in that of evaluation."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def forward(self, images: Tensor, rows: float = 1.0, columns: float = 1.0) -> LocalizerOutput:
        """Images (B, 3, H, W) in 0..255 -> `LocalizerOutput`.

        Args:
            rows: sides of the training image that the canvas is high, and `columns` that it is
        wide."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features = self.encoder.forward_features(images)  # type: ignore[operator]
        logits = self.encoder.forward_head(features)  # type: ignore[operator]
        num_rows, num_columns = (max(1, round(self.grid * sides)) for sides in (rows, columns))
        boxes, confidence = self.head(features, num_rows, num_columns)
        centers = _cell_centers(num_rows, num_columns, rows, columns).to(boxes)
        # A canvas of no whole number of cells has some of another size than those of training, and
        # shows all by as much larger or smaller: so are the answers.
        stretch = boxes.new_tensor([columns / num_columns, rows / num_rows] * 2) * self.grid
        boxes = boxes * stretch
        absolute = torch.cat((boxes[..., :2] + centers[:, :, None], boxes[..., 2:]), dim=-1)
        return LocalizerOutput(logits, HeadOutput(absolute, confidence))


def _read(layer: nn.Module, hidden: Tensor) -> Tensor:
    """Compute a last layer in float32 under autocast, too: bf16 would round a box to a quarter of a
    pixel.
    """
    with torch.autocast(hidden.device.type, enabled=False):
        answer: Tensor = layer(hidden.float())
    return answer


def _start(box: nn.Linear, confidence: nn.Linear, mean_box: Tensor, prior: float) -> None:
    """Let two layers answer the same whatever they see, until they have learned."""
    with torch.no_grad():
        box.weight.zero_()
        confidence.weight.zero_()
        box.bias.copy_(mean_box)
        confidence.bias.fill_(math.log(prior / (1 - prior)))


def _resized(x: Tensor, rows: int, columns: int) -> Tensor:
    return F.interpolate(x, size=(rows, columns), mode="bilinear", align_corners=False)


def _cell_centers(num_rows: int, num_columns: int, rows: float, columns: float) -> Tensor:
    """Return the middles (R, C, 2), (x, y), of cells that divide a canvas of rows x columns sides
    evenly.
    """
    y = (torch.arange(num_rows) + 0.5) * (rows / num_rows)
    x = (torch.arange(num_columns) + 0.5) * (columns / num_columns)
    return torch.stack((x.expand(num_rows, -1), y[:, None].expand(-1, num_columns)), dim=-1)
