"""Tasks that need no download: data sets that scikit-learn brings along, and generated blobs."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from byzgym.ambient import shielded
from byzgym.tasks.base import Task, import_sklearn, split_held_out, split_stratified
from byzgym.tasks.registry import registry
from byzgym.validation import check_int


@registry.built_in("digits")
@cache
@shielded
def digits() -> Task:
    """Handwritten digits: 1,797 images of shape (1, 8, 8), pixels from 0 to 1, ten classes.

    A stratified fifth (360) is the test set; the rest is 1,293 training and 144 held-out samples.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning
    Repository 1998 (CC BY 4.0, https://doi.org/10.24432/C50P49), the part embedded in scikit-learn.

    Example:
        >>> digits()
        Task(train=(1293, 1, 8, 8), test=360, num_classes=10, model='mlp:32')
    """
    data = import_sklearn("datasets").load_digits()
    x, y = torch.from_numpy(data.images[:, None] / 16), torch.from_numpy(data.target)
    train, test = split_stratified(data.target)
    return Task((x[train], y[train]), (x[test], y[test]), num_classes=10, model="mlp:32")


@registry.built_in("breast_cancer")
@cache
@shielded
def breast_cancer() -> Task:
    """Breast cancer diagnosis: 569 patients, 30 features, two classes (malignant, benign).

    A stratified fifth (114) is the test set; the rest is 409 training and 46 held-out samples. Features are
    standardised with the mean and standard deviation of the training samples alone.

    Source: W. Wolberg, O. Mangasarian, N. Street and W. Street, Breast Cancer Wisconsin (Diagnostic), UCI
    Machine Learning Repository 1993 (CC BY 4.0, https://doi.org/10.24432/C5DW2B), as scikit-learn has it.

    Example:
        >>> breast_cancer()
        Task(train=(409, 30), test=114, num_classes=2, model='softmax')
    """
    data = import_sklearn("datasets").load_breast_cancer()
    x, y = torch.from_numpy(data.data), torch.from_numpy(data.target)
    rows, test = split_stratified(data.target)
    (train_x, train_y), (held_x, held_y) = split_held_out(x[rows], y[rows])
    mean, std = train_x.mean(0), train_x.std(0)
    return Task(
        train=((train_x - mean) / std, train_y),
        test=((x[test] - mean) / std, y[test]),
        held_out=((held_x - mean) / std, held_y),
        num_classes=2,
        model="softmax",
    )


@registry.built_in("synthetic")
@shielded
def synthetic(num_samples: int = 200, num_features: int = 8, num_classes: int = 3, seed: int = 0) -> Task:
    """Gaussian blobs, for tests: a class is N(center, I) with its center drawn from N(0, 9 I).

    Args:
        num_samples: Number of training samples, of test samples and of held-out samples, at least 1.
        num_features: Number of features, at least 1.
        num_classes: Number of classes, at least 2; sample i of a set has class i modulo this.
        seed: Seed of the task's own generator, at least 0.

    Raises:
        ValueError: If a number is too small.

    Example:
        >>> synthetic(num_samples=6, num_features=2).train[1]
        tensor([0, 1, 2, 0, 1, 2])
    """
    check_int("num_samples", num_samples, 1)
    check_int("num_features", num_features, 1)
    check_int("num_classes", num_classes, 2)
    generator = torch.Generator().manual_seed(check_int("seed", seed, 0))
    centers = 3 * torch.randn(num_classes, num_features, generator=generator)

    def draw() -> tuple[Tensor, Tensor]:
        labels = torch.arange(num_samples) % num_classes
        return centers[labels] + torch.randn(num_samples, num_features, generator=generator), labels

    return Task(draw(), draw(), num_classes, "mlp:16", draw(), batch_size=16)
