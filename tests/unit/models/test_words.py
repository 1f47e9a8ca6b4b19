"""The step that counts words has what scikit-learn has, for any text."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

from nbcloud.models import words
from nbcloud.models.export.skl.words import step
from nbcloud.models.reading import Reader
from nbcloud.models.signature import Signature, Tensor

TEXT = Tensor("text", "str", ("batch", 1))
TRAINED = ["Good movie in PARIS", "très bien, À Köln", "很 好 看", "the end of the_world, isn't it", "", "a"]
UNSEEN = [
    *TRAINED,
    "KÖLN köln Koln!",
    "ΑΒΓ  αβγ",
    "I i İ ß SS",
    "  spaces  and\ttabs\n",
    "x" * 50,
    "naïve café",
]


@pytest.mark.parametrize(
    "counter",
    [
        CountVectorizer(),
        CountVectorizer(lowercase=False, binary=True),
        CountVectorizer(ngram_range=(1, 3), stop_words="english"),
        CountVectorizer(strip_accents="unicode", max_features=5),
        CountVectorizer(strip_accents="ascii", token_pattern=r"(\w)\w*"),
        CountVectorizer(analyzer="char", ngram_range=(2, 3)),
        CountVectorizer(analyzer="char_wb", ngram_range=(1, 4)),
        TfidfVectorizer(),
        TfidfVectorizer(sublinear_tf=True, norm="l1"),
        TfidfVectorizer(use_idf=False, norm=None, ngram_range=(2, 2)),
    ],
    ids=lambda each: str(each),
)
def test_it_counts_as_scikit_learn_does(counter: Any) -> None:
    expected = counter.fit(TRAINED).transform(UNSEEN).toarray()
    told = json.loads(json.dumps(step(counter, TEXT, "counts", "float64")))
    np.testing.assert_allclose(words.counter(told)(UNSEEN), expected, atol=1e-12)


def test_the_graph_may_take_the_text_too() -> None:
    counter = CountVectorizer().fit(TRAINED)
    told = {**step(counter, TEXT, "counts", "float32"), "keeps": True}
    graph = Signature((TEXT, Tensor("counts", "float32", ("batch", len(counter.vocabulary_)))), ())
    made = Reader([told], graph)({"text": [["good good"]]})
    assert made["text"].tolist() == [["good good"]]
    assert made["counts"].sum() == 2
    assert words.counter(told)([]).shape == (0, len(counter.vocabulary_))
