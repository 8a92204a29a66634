"""What an evaluation on each rung costs, counted and not timed: the same on every machine."""

from collections.abc import Mapping

from evaluators.disagreement import LOOKS
from evaluators.rungs.joint import RANDOM_WIDTHS
from evaluators.rungs.recalibration import IMAGES
from evaluators.settings import ProxySettings

_TRAINING = 3.0
"""Forward passes that a training step is worth: forward, and backward for inputs and for weights."""
_MEAN_SHARE = 0.25
"""FLOPs of a random slice in joint training over dense, about."""
HANDFUL, OF_MASKS = 32, 16
"""Training images that a scout is shown; of masks, each pixel of which is a case, fewer do."""
JOINT_STEP = 1 + RANDOM_WIDTHS * _MEAN_SHARE
"""Steps of dense that a step of joint training is worth."""


def prices(
    settings: ProxySettings, n_train: int, n_val: int, n_whole: int | None = None
) -> Mapping[str, float]:
    """Forward passes of one image through a network, by rung; the network's own size apart.

    Args:
        settings: Epochs and subset.
        n_train: Training images.
        n_val: Validation images.
        n_whole: Windows that `full` sees of whole validation volumes; None: it sees val.
    """
    subset = min(settings.train_limit or n_train, n_train)
    looks = min(LOOKS, n_train)  # for the agreement with dense
    sliced = float(min(IMAGES, subset) + n_val + looks)
    n_full = n_val if n_whole is None else n_whole
    return {
        "recalibrate": sliced,
        "shared": sliced,
        "finetune": _TRAINING * settings.epochs * subset + n_val + looks,
        "full": _TRAINING * settings.full_epochs * n_train + n_full + looks,
    }


def handful(kind: str) -> int:
    """Training images that a scout is shown in a task of this kind, at most."""
    return OF_MASKS if kind == "segmentation" else HANDFUL


def scout_price(kind: str) -> float:
    """Forward passes of one image through a scout: for its norm statistics, then for what it says."""
    return 2.0 * handful(kind)


def joint_price(settings: ProxySettings, n_train: int) -> float:
    """Forward passes of one image through dense that the joint training is worth."""
    return _TRAINING * settings.shared_epochs * n_train * JOINT_STEP
