"""Why two classes are confused: because they resemble each other, or because they share a
background?

Wu et al. 2017, section 4.2, name these two origins by looking at pictures. Here each pair gets
evidence that is measured: what becomes of its mistakes when the object or its surroundings are
blanked, how alike the model's features of both classes are, and how far apart they lie in
WordNet. The last two speak for resemblance only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinysight.analysis.confusions import Pair
from tinysight.analysis.occlusion import Survival
from tinysight.analysis.results import EvalResults, Ints

ALIKE = 0.98  # share of all pairs of classes that must be less similar
NEAR = 5  # steps in WordNet: as from cougar to lion; 3 % of the pairs of Tiny ImageNet are as near
FEWEST = 3  # tested mistakes from which the boxes have a say


@dataclass(frozen=True, kw_only=True)
class PairEvidence:
    """One confused pair and what is known of it; None where there is no such evidence."""

    pair: Pair
    similarity: float | None  # cosine of the classes' mean features
    similarity_rank: float | None  # share of all pairs that are less similar
    distance: int | None  # steps from one class to the other in WordNet
    tested: (
        int  # mistakes of the pair whose image has a box that leaves something inside and outside
    )
    kept_by_object: int  # of those, the same mistake is made with the surroundings blanked
    kept_by_background: int  # of those, with the object blanked

    @property
    def verdict(self) -> str:
        """The origin that the evidence speaks for: "resemblance", "background", "both" or "open"."""
        by_object, by_background = self.kept_by_object, self.kept_by_background
        enough = self.tested >= FEWEST
        object_holds, background_holds = (
            enough and 2 * kept >= self.tested for kept in (by_object, by_background)
        )
        background = background_holds and not object_holds
        alike = (self.similarity_rank or 0.0) >= ALIKE or (
            self.distance is not None and self.distance <= NEAR
        )
        resemblance = alike or (object_holds and not background_holds)
        return {
            (True, True): "both",
            (True, False): "resemblance",
            (False, True): "background",
        }.get((resemblance, background), "open")


def weigh(
    judged: EvalResults,
    pairs: Sequence[Pair],
    *,
    similarity: npt.NDArray[np.float32] | None = None,
    survival: Survival | None = None,
    distances: Ints | None = None,
) -> list[PairEvidence]:
    """Gather the evidence of each pair; similarity and distances are (K, K), a distance of -1 is
    unknown.
    """
    others = similarity[np.triu_indices(len(similarity), k=1)] if similarity is not None else None
    found = []
    for pair in pairs:
        tested = by_object = by_background = 0
        if survival is not None:
            mistakes = _mistakes(judged, pair) & survival.tested
            said = judged.predictions[mistakes]
            tested = int(mistakes.sum())
            by_object = int((survival.object_only[mistakes] == said).sum())
            by_background = int((survival.background_only[mistakes] == said).sum())
        value = rank = None
        if similarity is not None and others is not None:
            value = float(similarity[pair.first, pair.second])
            rank = float((others < value).mean())
        distance = int(distances[pair.first, pair.second]) if distances is not None else -1
        found.append(
            PairEvidence(
                pair=pair,
                similarity=value,
                similarity_rank=rank,
                distance=distance if distance >= 0 else None,
                tested=tested,
                kept_by_object=by_object,
                kept_by_background=by_background,
            )
        )
    return found


def _mistakes(judged: EvalResults, pair: Pair) -> npt.NDArray[np.bool_]:
    forth = (judged.labels == pair.first) & (judged.predictions == pair.second)
    back = (judged.labels == pair.second) & (judged.predictions == pair.first)
    return np.asarray(forth | back)
