"""Probes of a trained model: what it bases its predictions on, and why it confuses classes.

An activation map is the sum over channels of features times the gradient of the class's logit. For
a linear head after global average pooling that is the class-activation map of Zhou et al. 2016
(arXiv:1512.04150), which adds up to the logit minus its bias; for other heads it is HiResCAM
(Draelos and Carin 2020, arXiv:2011.08891), which is that sum to first order.

Wu et al. 2017, section 4.2, explain confusions by labels that resemble each other and by shared
backgrounds, from looking at pictures ("a fly lying on a flower is recognized a bee"). Here that is
tested: is the mistake still made when the object, or its background, is blanked?
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from tinysight.analysis.errors import Pair, choose_mistakes
from tinysight.analysis.results import EvalResults, RunResults
from tinysight.analysis.statistics import Bools, Floats, Ints
from tinysight.data.batches import balanced_subset, chosen_rows
from tinysight.data.dataset import Dataset
from tinysight.files import sha256, write_atomic
from tinysight.models.classifier import Classifier
from tinysight.predict.predictor import Predictor

FORMAT = 3
NUM_NEIGHBORS = 5
MAX_CANDIDATES = 20_000  # training images searched for neighbors, as many of each class
MIN_SHARE, MAX_SHARE = 0.05, 0.75  # of the window that a box may cover, so that both sides show
SIMILAR = 0.98  # share of all other pairs of classes that must be less similar
MIN_TESTED = 3  # tested mistakes from which occlusion counts

Pixels = npt.NDArray[np.uint8]
Boxes = npt.NDArray[np.floating]
Progress = Callable[[str, int, int], None]
EachBatch = Callable[[int], None]


def activation_maps(model: Classifier, images: Tensor, classes: Tensor) -> Tensor:
    """Return maps (B, h, w) of what in images (B, 3, H, W), 0..255, supports `classes` (B,)."""
    with torch.no_grad():
        features = model.forward_features(images)
    features.requires_grad_()
    with torch.enable_grad():
        logits = model.forward_head(features).gather(1, classes[:, None])
        (gradient,) = torch.autograd.grad(logits.sum(), features)
    return (features.detach() * gradient).sum(dim=1)


def first_filters(model: nn.Module) -> npt.NDArray[np.float32]:
    """Return the weights (F, h, w, 3) of the first convolution of RGB images.

    Raises ValueError where there is none, or its filters are of one pixel and show no shape.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == 3:
            if max(module.kernel_size) == 1:
                raise ValueError(f"the filters of the first convolution, {name}, are of one pixel")
            return module.weight.detach().float().cpu().permute(0, 2, 3, 1).numpy()
    raise ValueError(f"{type(model).__name__} has no convolution of RGB images")


@torch.no_grad()
def embed(
    predictor: Predictor, images: Pixels, rows: Ints, each_batch: EachBatch = lambda done: None
) -> Tensor:
    """Return the pooled features (R, D) of `rows` of images (N, S, S, 3), scaled to length 1."""
    parts = [torch.empty(0, predictor.network.model.num_features)]
    for start in range(0, len(rows), 250):
        chosen = rows[start : start + 250]
        views = predictor.network.views(np.take(images, chosen, axis=0))
        with predictor.network.runtime.autocast():
            features = predictor.network.model.forward_features(views)
        parts.append(F.normalize(features.float().flatten(2).mean(dim=2), dim=1).cpu())
        each_batch(start + len(chosen))
    return torch.cat(parts)


def nearest(
    queries: Tensor,
    candidates: Tensor,
    *,
    rows: tuple[Tensor, Tensor] | None = None,
    k: int = NUM_NEIGHBORS,
    block: int = 1000,
) -> tuple[Tensor, Tensor]:
    """Return cosines and places (Q, k) of the candidates (M, D) most similar to queries (Q, D).

    Both have length 1. With fewer than k candidates there are fewer columns. With rows (Q,) and
    (M,) a candidate of the query's own row is passed over.
    """
    k = max(0, min(k, len(candidates) - (rows is not None)))
    parts = []
    for start in range(0, max(1, len(queries)), block):
        cosines = queries[start : start + block] @ candidates.T
        if rows is not None:
            cosines[rows[0][start : start + block, None] == rows[1]] = -torch.inf
        parts.append(cosines.topk(k, dim=1))
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


def class_similarity(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return the cosines (K, K) of the classes' mean features, from features (M, D), labels (M,).

    The mean of all classes is subtracted first: what all images share would make all classes
    similar. The similarity of a class without images is 0.
    """
    sums = torch.zeros(num_classes, features.shape[1]).index_add_(0, labels, features)
    counts = torch.bincount(labels, minlength=num_classes)
    means = sums / counts.clamp(min=1)[:, None]
    centered = torch.where((counts > 0)[:, None], means - means[counts > 0].mean(dim=0), 0)
    directions = F.normalize(centered, dim=1)
    return directions @ directions.T


@dataclass(frozen=True)
class OcclusionResults:
    """Predictions (N,) with a part of each image blanked; -1 where an image cannot be tested."""

    object_only: Ints  # the outside of the box blanked
    background_only: Ints  # its inside blanked

    @property
    def tested(self) -> Bools:
        return self.object_only >= 0


def share_covered(boxes: Boxes, *, image_size: int, crop: int) -> Floats:
    """Return the share (n,) of the center window that each box (n, 4) covers."""
    start = (image_size - crop) // 2
    x0, y0, x1, y1 = np.clip(boxes, start, start + crop).T
    return np.asarray((x1 - x0) * (y1 - y0) / crop**2, dtype=np.float64)


def can_occlude(dataset: Dataset, rows: Ints, *, crop: int) -> Bools:
    """Return which rows (N,) have one box that leaves enough inside and outside to see."""
    single = dataset.box_offsets[rows + 1] - dataset.box_offsets[rows] == 1
    result = np.zeros(len(rows), bool)
    boxes = dataset.boxes[dataset.box_offsets[rows[single]]]
    share = share_covered(boxes, image_size=dataset.image_size, crop=crop)
    result[single] = (share >= MIN_SHARE) & (share <= MAX_SHARE)
    return result


def blank(image: Pixels, box: Boxes, color: Pixels, *, inside: bool) -> Pixels:
    """Fill the inside or the outside of a half-open box of an image (H, W, 3) with a color (3,)."""
    x0, y0 = np.floor(box[:2]).astype(int).clip(0)
    x1, y1 = np.ceil(box[2:]).astype(int).clip(0)
    within = np.zeros(image.shape[:2], bool)
    within[y0:y1, x0:x1] = True
    return np.where((within if inside else ~within)[..., None], color, image)


def occlude(
    predictor: Predictor, dataset: Dataset, rows: Ints, each_batch: EachBatch = lambda done: None
) -> OcclusionResults:
    """Classify each testable row (N,) twice, one side of its box filled with the mean color."""
    mean = predictor.network.model.normalize.mean.flatten().round().byte().cpu().numpy()
    found = OcclusionResults(np.full(len(rows), -1), np.full(len(rows), -1))
    places = np.flatnonzero(can_occlude(dataset, rows, crop=predictor.metadata.crop))
    for start in range(0, len(places), 125):
        chosen = places[start : start + 125]
        for inside, predicted in ((False, found.object_only), (True, found.background_only)):
            pairs = [(dataset.images[n], dataset.boxes_of(n)[0]) for n in rows[chosen].tolist()]
            images = np.stack([blank(*pair, mean, inside=inside) for pair in pairs])
            predicted[chosen] = predictor.network.logits(images).argmax(dim=1).cpu().numpy()
        each_batch(start + len(chosen))
    return found


@dataclass(frozen=True)
class ConfusionCause:
    """A confused pair and what probes show of it; None where it was not probed."""

    pair: Pair
    similarity: float | None  # cosine of the classes' mean features
    similarity_rank: float | None  # share of all other pairs that are less similar
    tested: int  # mistakes of the pair that occlusion could test
    kept_by_object: int  # of those, still made with the background blanked
    kept_by_background: int  # of those, still made with the object blanked

    @property
    def cause(self) -> str:
        """What the probes point to: "resemblance", "background", "both" or "unclear"."""
        enough = self.tested >= MIN_TESTED
        by_object = enough and 2 * self.kept_by_object >= self.tested
        by_background = enough and 2 * self.kept_by_background >= self.tested
        background = by_background and not by_object
        similar = (self.similarity_rank or 0.0) >= SIMILAR
        resemblance = similar or (by_object and not by_background)
        if resemblance and background:
            return "both"
        return "resemblance" if resemblance else "background" if background else "unclear"


def explain_confusions(
    results: EvalResults,
    pairs: Sequence[Pair],
    *,
    similarity: npt.NDArray[np.float32] | None = None,
    occlusion: OcclusionResults | None = None,
) -> list[ConfusionCause]:
    """Collect what is known of the cause of each pair's mistakes; the similarity is (K, K)."""
    causes = []
    for pair in pairs:
        tested = by_object = by_background = 0
        if occlusion is not None:
            forth = (results.labels == pair.first) & (results.predicted == pair.second)
            back = (results.labels == pair.second) & (results.predicted == pair.first)
            mistakes = (forth | back) & occlusion.tested
            predicted = results.predicted[mistakes]
            tested = int(mistakes.sum())
            by_object = int((occlusion.object_only[mistakes] == predicted).sum())
            by_background = int((occlusion.background_only[mistakes] == predicted).sum())
        value = rank = None
        if similarity is not None:
            value = float(similarity[tuple(sorted((pair.first, pair.second)))])
            pairs_of_all = similarity[np.triu_indices(len(similarity), k=1)]
            others = len(pairs_of_all) - 1  # itself is not among them, so that 1 can be reached
            rank = float((pairs_of_all < value).sum() / others) if others else None
        causes.append(ConfusionCause(pair, value, rank, tested, by_object, by_background))
    return causes


@dataclass(frozen=True, kw_only=True)
class Probes:
    """Probes of N images of a split, K classes and G shown mistakes; rows are the dataset's."""

    neighbors: Tensor  # (N, k) rows of `RunResults.learned`, the most similar ones, nearest first
    neighbor_similarity: Tensor  # (N, k), cosines
    class_similarity: Tensor  # (K, K), cosines of the classes' means
    object_only: Tensor  # (N,) predictions, see OcclusionResults
    background_only: Tensor  # (N,)
    shown: Tensor  # (G,) places among the N
    maps: Tensor  # (G, h, w) activation maps of the predictions
    num_candidates: Tensor  # () training images that were searched for neighbors

    @property
    def has_neighbors(self) -> bool:
        """Whether there were training images to compare with: else neighbors are not known."""
        return bool(self.num_candidates)

    @property
    def occlusion(self) -> OcclusionResults:
        return OcclusionResults(self.object_only.numpy(), self.background_only.numpy())


def compute_probes(
    run: RunResults, results: EvalResults, predictor: Predictor, shown: Ints, progress: Progress
) -> Probes:
    """Probe the model on a split; minutes for 10,000 images and 20,000 candidates on a CPU."""
    dataset, learned = run.dataset, run.learned or run.dataset
    candidates = find_candidates(run, results)

    def report(what: str, total: int) -> EachBatch:
        return lambda done: progress(what, done, total)

    known, own = (
        embed(predictor, source.images, rows, report("computing features", len(rows)))
        for source, rows in ((learned, candidates), (dataset, results.rows))
    )
    crossed = results.evaluation.cross_validated and learned is dataset
    both = (torch.from_numpy(results.rows), torch.from_numpy(candidates)) if crossed else None
    similarity, places = nearest(own, known, rows=both)
    blanking = report("blanking objects and backgrounds", len(results))
    occlusion = occlude(predictor, dataset, results.rows, blanking)
    maps = torch.empty(0, 1, 1)
    if len(shown):
        views = predictor.network.views(np.take(dataset.images, results.rows[shown], axis=0))
        classes = torch.from_numpy(results.predicted[shown]).to(views.device)
        maps = activation_maps(predictor.network.model, views, classes).float().cpu()
    labels = torch.from_numpy(np.array(learned.labels[candidates]))
    return Probes(
        neighbors=torch.from_numpy(candidates)[places],
        neighbor_similarity=similarity,
        class_similarity=class_similarity(known, labels, len(dataset.class_names)),
        object_only=torch.from_numpy(occlusion.object_only),
        background_only=torch.from_numpy(occlusion.background_only),
        shown=torch.from_numpy(shown),
        maps=maps,
        num_candidates=torch.tensor(len(candidates)),
    )


def find_candidates(run: RunResults, results: EvalResults) -> Ints:
    """Choose the training images that are searched for neighbors, as rows of `run.learned`.

    None where that is not here. Images that are evaluated are left out, unless by models of several
    folds.
    """
    learned, config = run.learned, run.config.data
    if learned is None:
        return np.empty(0, np.int64)
    train = chosen_rows(learned, config.train, config.fraction)
    train = train[learned.labels[train] >= 0]
    if learned is not run.dataset:
        digests = run.dataset.digests[results.rows]
        own = {digest.tobytes() for digest in digests}
        others = [digest.tobytes() not in own for digest in learned.digests[train]]
        train = train[np.array(others, bool)]
    elif not results.evaluation.cross_validated:
        train = np.setdiff1d(train, results.rows)
    share = min(1.0, MAX_CANDIDATES / max(len(train), 1))
    return balanced_subset(train, learned.labels[train], share)


def stored_probes(
    run: RunResults, predictor: Predictor, *, progress: Progress = lambda what, done, total: None
) -> Probes | None:
    """Return the probes stored in the run's folder; compute and store them where they are stale.

    None where there is nothing to probe: no scores, or a localizer that does not classify.
    """
    if run.results is None:
        return None
    shown = choose_mistakes(run.results)
    path = run.run.analysis_path / run.scores_path.name
    source = {"format": FORMAT, "shown": shown.tolist(), "candidates": MAX_CANDIDATES}
    source |= {"learned": run.learned.digest if run.learned else None}
    source |= {"weights": sha256(run.run.weights_path), "scores": sha256(run.scores_path)}
    if (stored := _read(path, source)) is not None:
        return stored
    probes = compute_probes(run, run.results, predictor, shown, progress)
    path.parent.mkdir(exist_ok=True)
    tensors = {field.name: getattr(probes, field.name).contiguous() for field in fields(Probes)}
    write_atomic(path, save(tensors, metadata={"tinysight": json.dumps(source)}))
    return probes


def _read(path: Path, source: dict[str, object]) -> Probes | None:
    try:
        with safe_open(path, framework="pt") as file:
            if json.loads((file.metadata() or {}).get("tinysight", "null")) != source:
                return None
            return Probes(**{field.name: file.get_tensor(field.name) for field in fields(Probes)})
    except (OSError, SafetensorError, ValueError):  # missing or damaged: computed again
        return None
