"""Yelp reviews: how many stars, from the text."""

from __future__ import annotations

import os
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from byzgym.ambient import shielded
from byzgym.tasks import tables
from byzgym.tasks.base import Task, import_sklearn
from byzgym.tasks.registry import registry
from byzgym.validation import check_choice, check_int

LARGEST_ID = 1 << 20
"""Of an n-gram. A float32, which inputs are, holds every whole number up to 2**24."""


@registry.built_in("yelp")
def yelp(
    path: str | os.PathLike[str] | None = None,
    root: str | os.PathLike[str] | None = None,
    label: str = "stars",
    features: str = "counts",
    num_features: int = 4096,
    num_words: int = 256,
) -> Task:
    """Yelp reviews: the stars of a review, or whether it is good or bad, from the hashed n-grams of its text.

    The file is a table in CSV, whose first line names the columns:

    - stars: a whole number from 1 to 5.
    - text: the review. Its words are all runs of at least two letters, digits and underscores, in lower case;
      its n-grams are the words and the pairs of consecutive words.
    - user_id, business_id: if they are there, the partition `by_column` can divide reviews by them, so that
      a worker has all reviews of some users (``partition="by_column:user_id"``).

    Other columns are not read. A stratified fifth of the reviews is the test set, a tenth of the rest is held
    out.

    Args:
        path: The file. Where None, it is yelp/yelp.csv in ``root``.
        root: The folder of the data. Where None, the environment variable BYZGYM_DATA_ROOT names it.
        label: "stars" (five classes, 0 is one star) or "polarity" (1 is four or five stars, 0 is one or two;
            reviews with three stars are left out).
        features: "counts" or "ids". Counts are for models such as "softmax" and "mlp:32": an n-gram adds 1 or
            -1 to the feature that it is hashed to; sign(x) log(1 + abs(x)) of the sums is weighted by inverse
            document frequency in the training set, and a review scaled to norm 10. Ids are for the model
            "embedding_bag": the numbers from 1 to 2**20 that n-grams are hashed to, filled up with zeros.
        num_features: With counts, at least 1.
        num_words: With ids, how many words of a review count, from its beginning; at least 1.

    Raises:
        ValueError: If no file is given, it is no such table, lacks a column or holds other numbers of stars,
            a class has too few reviews, or another argument is out of its range.
        FileNotFoundError: If there is no such file.

    Source: reviews of the Yelp Dataset (https://www.yelp.com/dataset), one of the four case studies of Pan et
    al. 2020, "Justinian's GAAvernor"; polarity as in Zhang, Zhao and LeCun 2015, "Character-level
    Convolutional Networks for Text Classification" (https://arxiv.org/abs/1509.01626), without three stars.

    Example:
        At the command line: ``--task yelp:root=/data,label=polarity`` or
        ``--task yelp:path=reviews.csv,features=ids``.
    """
    check_choice("label", label, ("stars", "polarity"))
    check_choice("features", features, ("counts", "ids"))
    # What does not matter is not told to the cache.
    size = check_int("num_features", num_features, 1, 1 << 24)
    if check_int("num_words", num_words, 1) and features == "ids":
        size = num_words
    file = tables.find(path, root, "yelp/yelp.csv")
    return _load(file, file.stat().st_mtime_ns, label, features, size)


@lru_cache(maxsize=2)
@shielded
def _load(file: Path, changed: int, label: str, features: str, size: int) -> Task:
    authors = ("user_id", "business_id")
    table = tables.read(file, ["stars", "text"], optional=authors, text=["text", *authors])
    stars = tables.codes(table, "stars", (1, 2, 3, 4, 5), file).astype(np.int64)
    y = stars - 1
    if label == "polarity":
        table, y = table[stars != 3], (stars[stars != 3] > 3).astype(np.int64)
    num_classes = 5 if label == "stars" else 2
    train, held_out, test = tables.split(y, num_classes, label, file)
    if features == "ids":
        x, model, rate = _ids(table["text"], size), "embedding_bag", 1.0
    else:
        x, model, rate = _counts(table["text"], size, train), "softmax", 0.1
    labels = torch.from_numpy(y)

    def samples(rows: np.ndarray) -> tuple[Tensor, Tensor]:
        return x[rows], labels[rows]

    columns = {
        name: torch.from_numpy(np.unique(table[name].to_numpy(dtype=str)[train], return_inverse=True)[1])
        for name in authors
        if name in table
    }
    return Task(
        samples(train),
        samples(test),
        num_classes,
        model,
        samples(held_out),
        learning_rate=rate,
        columns=columns,
    )


def _counts(texts: Any, num_features: int, train: np.ndarray) -> Tensor:
    """Weighted counts of n-grams, [N, num_features]."""
    text = import_sklearn("feature_extraction.text")
    hashing = text.HashingVectorizer(n_features=num_features, ngram_range=(1, 2), norm=None, dtype=np.float32)
    counts = hashing.transform(texts)
    frequency = np.bincount(counts[train].indices, minlength=num_features)  # reviews with each feature
    weights = np.log((1 + len(train)) / (1 + frequency)) + 1
    counts.data = np.sign(counts.data) * np.log1p(np.abs(counts.data))
    rows = torch.from_numpy(counts.toarray()) * torch.from_numpy(weights.astype(np.float32))
    return rows * (10 / rows.norm(dim=1, keepdim=True).clamp(min=1e-6))


def _ids(texts: Any, num_words: int) -> Tensor:
    """The numbers of the words and pairs of words of each text, [N, 2 * num_words - 1], 0 where it ends."""
    text, utils = import_sklearn("feature_extraction.text"), import_sklearn("utils")
    words_of = text.CountVectorizer().build_analyzer()
    known: dict[str, int] = {}
    rows = np.zeros((len(texts), 2 * num_words - 1), dtype=np.float32)
    for row, review in zip(rows, texts, strict=True):
        words = words_of(review)[:num_words]
        grams = [*words, *map(" ".join, pairwise(words))]
        for gram in grams:
            if gram not in known:
                known[gram] = utils.murmurhash3_32(gram, positive=True) % LARGEST_ID + 1
        row[: len(grams)] = [known[gram] for gram in grams]
    return torch.from_numpy(rows)
