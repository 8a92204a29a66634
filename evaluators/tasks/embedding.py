"""Feature extraction: a network that returns an embedding, judged by what a linear probe reads from it."""

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from evaluators.metrics import Metric
from evaluators.protocols import Images
from evaluators.tasks.classification import Classification
from evaluators.tasks.heads import main_output
from evaluators.tasks.judged import run_in_batches
from spaces.errors import NetworkError, RunError

TEMPERATURE = 0.5
_FLAT = 1e-5  # variance below which a feature says nothing, as in a batch norm
PROBE_STRENGTH = 1.0
"""Inverse strength of the probe's L2 penalty, on standardised embeddings (scikit-learn's C)."""


class Embedding(Classification):
    """Outputs (n, width), or feature maps (n, width, *spatial), which are averaged; targets (n,) classes.

    The probe, a logistic regression fitted on the training images' embeddings, makes probabilities of
    classes; from there on it is a classification. Trained by the supervised contrastive loss, or by
    imitating the dense network's embedding (`distill = 1`).

    Source: Khosla et al. 2020 (supervised contrastive learning); Chen et al. 2020 (SimCLR, its heads).
    """

    def __init__(self, metric: Metric, chance: float, classes: tuple[str, ...]) -> None:
        super().__init__(metric, chance, classes)
        self.kind = self.signature = "embedding"

    def check_outputs(self, outputs: Any, targets: torch.Tensor) -> None:
        """Refuse outputs that are not one embedding per image.

        Raises:
            NetworkError: Names the shape.
        """
        shape = tuple(main_output(outputs).shape)
        if len(shape) < 2 or shape[0] != len(targets) or shape[1] < 2:
            raise NetworkError(
                f"the network's output has shape {shape}, but an embedding needs ({len(targets)}, width)"
            )

    def loss(self, outputs: Any, targets: torch.Tensor) -> torch.Tensor:
        """Supervised contrastive loss, mean over the images that have another of their class in the batch.

        Directions are those of the embeddings standardised over the batch, as by a batch norm at the end of a
        projection head: what all embeddings share would else hide their differences, and the loss stay flat.
        """
        found = _pooled(outputs)
        spread = (found.var(dim=0, correction=0) + _FLAT).sqrt()
        directions = F.normalize((found - found.mean(dim=0)) / spread, dim=1)
        alike = targets.unsqueeze(0) == targets.unsqueeze(1)
        alike.fill_diagonal_(False)
        logits = directions @ directions.T / TEMPERATURE
        own = torch.eye(len(targets), dtype=torch.bool, device=targets.device)
        log_p = F.log_softmax(logits.masked_fill(own, -1e9), dim=1)
        pairs = alike.sum(dim=1)
        per_image = -(log_p * alike).sum(dim=1) / pairs.clamp_min(1)
        return per_image.sum() / (pairs > 0).sum().clamp_min(1)

    def imitation(self, outputs: Any, told: torch.Tensor) -> torch.Tensor:
        """One minus the mean cosine to another network's embeddings."""
        return self.disagreement(outputs, told).mean()

    def disagreement(self, outputs: Any, told: torch.Tensor) -> torch.Tensor:
        """One minus the cosine to another network's embedding: at most 2."""
        return 1 - F.cosine_similarity(_pooled(outputs), _pooled(told), dim=1)

    def judge(self, outputs: Any, targets: torch.Tensor) -> dict[str, np.ndarray]:
        """Not from outputs alone: the probe needs the training images."""
        raise RunError("an embedding is judged by a probe fitted on training images; use examine")

    def examine(
        self, network: nn.Module, data: Images, train: Images | None = None, *, rung: str = "", seed: int = 0
    ) -> dict[str, np.ndarray]:
        """Per case, what a probe fitted on `train` reads; as for a classification."""
        if train is None:
            raise RunError("the linear probe of an embedding needs the training images")
        known, labels = _embeddings(network, train)
        unknown, targets = _embeddings(network, data)
        score = probe(known, labels, unknown, len(self.classes))
        loss = -np.log(np.maximum(score[np.arange(len(targets)), targets], 1e-12))
        return self.gather([{"loss": loss.astype(np.float32), "score": score.astype(np.float32)}], targets)


def probe(known: np.ndarray, labels: np.ndarray, unknown: np.ndarray, n_classes: int) -> np.ndarray:
    """Probabilities that a logistic regression gives: (m, width), (m,), (n, width) -> (n, classes).

    Classes without a training image have the probability zero.
    """
    from sklearn.linear_model import LogisticRegression

    centre, scale = known.mean(axis=0), known.std(axis=0)
    scale = np.where(scale > 1e-8, scale, 1.0)
    regression = LogisticRegression(C=PROBE_STRENGTH, max_iter=300, tol=1e-3)
    regression.fit((known - centre) / scale, labels)
    score = np.zeros((len(unknown), n_classes))
    score[:, regression.classes_] = regression.predict_proba((unknown - centre) / scale)
    return score


def _embeddings(network: nn.Module, data: Images) -> tuple[np.ndarray, np.ndarray]:
    parts = [_pooled(outputs).cpu().numpy() for outputs, _ in run_in_batches(network, data)]
    found = np.concatenate(parts).astype(np.float64)
    if not np.isfinite(found).all():
        raise RunError("the network's embeddings are not finite")
    return found, data.targets.cpu().numpy()


def _pooled(outputs: Any) -> torch.Tensor:
    """One vector per image: feature maps are averaged over their pixels."""
    found = main_output(outputs).float()
    return found.flatten(2).mean(dim=2) if found.ndim > 2 else found
