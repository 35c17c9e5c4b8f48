"""Tasks that need no download: scikit-learn's embedded data sets, and generated blobs."""

from __future__ import annotations

import importlib
import random
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from byzgym.tasks.base import Task, split_held_out
from byzgym.tasks.registry import registry
from byzgym.validation import check_int

_TEST_FRACTION = 0.2


@registry.built_in("digits")
def digits() -> Task:
    """Handwritten digits: 1,797 images of shape (1, 8, 8), pixels from 0 to 1, ten classes.

    A stratified fifth (360) is the test set; the rest is 1,293 training and 144 held-out samples.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning
    Repository 1998 (CC BY 4.0), the part embedded in scikit-learn.
    """
    return _digits()


@registry.built_in("breast_cancer")
def breast_cancer() -> Task:
    """Breast cancer diagnosis: 569 patients, 30 features, two classes (malignant, benign).

    A stratified fifth (114) is the test set; the rest is 409 training and 46 held-out samples. Features are
    standardised with the mean and standard deviation of the training samples alone.

    Source: W. Wolberg, O. Mangasarian, N. Street and W. Street, Breast Cancer Wisconsin (Diagnostic), UCI
    Machine Learning Repository 1993 (CC BY 4.0), as embedded in scikit-learn.
    """
    return _breast_cancer()


@registry.built_in("synthetic")
def synthetic(num_samples: int = 200, num_features: int = 8, num_classes: int = 3, seed: int = 0) -> Task:
    """Gaussian blobs, for tests: a class is N(center, I) with its center drawn from N(0, 9 I).

    Args:
        num_samples: Number of training samples, of test samples and of held-out samples, at least 1.
        num_features: Number of features, at least 1.
        num_classes: Number of classes, at least 2; sample i of a set has class i modulo this.
        seed: Seed of the task's own generator, at least 0.
    """
    check_int("num_samples", num_samples, 1)
    check_int("num_features", num_features, 1)
    check_int("num_classes", num_classes, 2)
    generator = torch.Generator().manual_seed(check_int("seed", seed, 0))
    centers = 3 * torch.randn(num_classes, num_features, generator=generator)

    def draw() -> tuple[Tensor, Tensor]:
        labels = torch.arange(num_samples) % num_classes
        return centers[labels] + torch.randn(num_samples, num_features, generator=generator), labels

    return Task(draw(), draw(), num_classes, "mlp:16", draw(), batch_size=16, learning_rate=0.1)


@lru_cache(maxsize=1)
def _digits() -> Task:
    data = _data_sets().load_digits()
    train, test = _stratified_split(data.images[:, None] / 16, data.target)
    return Task(train, test, num_classes=10, model="mlp:32", batch_size=32, learning_rate=0.1)


@lru_cache(maxsize=1)
def _breast_cancer() -> Task:
    data = _data_sets().load_breast_cancer()
    (x, y), (test_x, test_y) = _stratified_split(data.data, data.target)
    (x, y), (held_x, held_y) = split_held_out(x, y)
    mean, std = x.mean(0), x.std(0)
    return Task(
        train=((x - mean) / std, y),
        test=((test_x - mean) / std, test_y),
        held_out=((held_x - mean) / std, held_y),
        num_classes=2,
        model="softmax",
        batch_size=32,
        learning_rate=0.1,
    )


def _data_sets() -> Any:
    """The module `sklearn.datasets`, whose import takes a second and draws from Python's generator."""
    state = random.getstate()
    datasets = importlib.import_module("sklearn.datasets")
    random.setstate(state)
    return datasets


def _stratified_split(x: np.ndarray, y: np.ndarray) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Training and test set, always the same, each with the classes in proportion."""
    from sklearn.model_selection import train_test_split

    rows = np.arange(len(x))
    train, test = train_test_split(rows, test_size=_TEST_FRACTION, stratify=y, random_state=0)
    inputs, labels = torch.from_numpy(x), torch.from_numpy(y)
    return (inputs[train], labels[train]), (inputs[test], labels[test])
