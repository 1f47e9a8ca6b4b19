"""Every estimator of scikit-learn, exported: which verify, which are refused, and with which sentence.

    python -m tests.sweeps.estimators [--processes 2] [NAME …]

Each is fitted with its default arguments on the data of `problems` that suit it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.experimental import enable_halving_search_cv  # noqa: F401

from tests.sweeps import sweep


def arguments(kind: type) -> dict[str, Any]:
    """What a constructor asks for, at the least."""
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.preprocessing import StandardScaler
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    name = kind.__name__
    classifies = not (name.endswith(("Regressor", "RegressorChain")))
    one = LogisticRegression() if classifies else Ridge()
    tree = DecisionTreeClassifier(max_depth=3) if classifies else DecisionTreeRegressor(max_depth=3)
    chosen = {
        "FeatureUnion": {"transformer_list": [("a", StandardScaler()), ("b", StandardScaler())]},
        "ColumnTransformer": {"transformers": [("a", StandardScaler(), [0, 1])]},
        "Pipeline": {"steps": [("a", StandardScaler()), ("b", one)]},
        "FrozenEstimator": {"estimator": LogisticRegression().fit(*iris())},
        "GridSearchCV": {"estimator": one, "param_grid": {"C": [0.1, 1]}},
        "HalvingGridSearchCV": {"estimator": one, "param_grid": {"C": [0.1, 1]}},
        "RandomizedSearchCV": {"estimator": one, "param_distributions": {"C": [0.1, 1]}, "n_iter": 2},
        "HalvingRandomSearchCV": {"estimator": one, "param_distributions": {"C": [0.1, 1]}},
        "SparseCoder": {"dictionary": np.eye(4)},
        "SequentialFeatureSelector": {"estimator": one, "n_features_to_select": 2},
        "SelfTrainingClassifier": {"estimator": one},
        "FeatureHasher": {"n_features": 16},
        "QuantileTransformer": {"n_quantiles": 100},
        "RadiusNeighborsClassifier": {"outlier_label": "most_frequent"},
    }
    if name in chosen:
        return chosen[name]
    given: dict[str, Any] = {
        "estimator": one,
        "base_estimator": one,
        "estimators": [("one", one), ("two", tree)],
    }
    asked = inspect.signature(kind).parameters.values()
    return {
        each.name: given[each.name] for each in asked if each.default is each.empty and each.name in given
    }


def iris() -> tuple[Any, Any]:
    from sklearn.datasets import load_iris

    x, y = load_iris(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    return x[order], y[order]


def problems(name: str, kind: type) -> Iterator[tuple[str, Any, Any]]:
    """Data on which it may be fitted: a name, what it takes, and what it is to tell."""
    from sklearn.base import ClassifierMixin, RegressorMixin

    x, y = iris()
    random = np.random.default_rng(1)
    texts = np.array(
        [f"the {a} {b}!" for a in ("good", "bad", "très") for b in ("film", "book", "很好 看")] * 3
    )
    words = np.array(["red", "green", "blue", "grün"])[random.integers(0, 4, (150, 2))].astype(object)
    special: dict[str, list[tuple[str, Any, Any]]] = {
        "CountVectorizer": [("texts", texts, None)],
        "TfidfVectorizer": [("texts", texts, None)],
        "HashingVectorizer": [("texts", texts, None)],
        "TfidfTransformer": [("counts", random.integers(0, 4, (60, 5)), None)],
        "LatentDirichletAllocation": [("counts", random.integers(0, 4, (60, 5)), None)],
        "OneHotEncoder": [("words", words, None), ("whole", random.integers(0, 4, (60, 2)), None)],
        "OrdinalEncoder": [("words", words, None), ("whole", random.integers(0, 4, (60, 2)), None)],
        "TargetEncoder": [("words", words, y), ("words of two", words, y > 0)],
        "LabelEncoder": [("words", words[:, 0], None), ("whole", y, None)],
        "LabelBinarizer": [("words", words[:, 0], None), ("whole", y, None)],
        "MultiLabelBinarizer": [("lists", words, None)],
        "DictVectorizer": [("records", [{"a": 1.0, "b": 2.0}, {"a": 3.0}], None)],
        "FeatureHasher": [("records", [{"a": 1.0, "b": 2.0}, {"a": 3.0}], None)],
        "IsotonicRegression": [("one column", x[:, 0], x[:, 1])],
        "CategoricalNB": [("whole", random.integers(0, 4, (150, 3)), y)],
        "PatchExtractor": [("images", random.random((4, 12, 12)), None)],
        "SkewedChi2Sampler": [("positive", x, None)],
    }
    if name in special:
        yield from special[name]
        return
    several = np.stack([x[:, 0], x[:, 1] ** 2], axis=1)
    labels = np.stack([y > 0, x[:, 0] > 5.8], axis=1).astype(int)
    if name in ("MultiOutputRegressor", "RegressorChain", "CCA", "PLSCanonical", "PLSSVD"):
        yield "several targets", x, several
    elif name in ("MultiOutputClassifier", "ClassifierChain"):
        yield "several labels", x, labels
    elif issubclass(kind, ClassifierMixin) or "Search" in name:
        yield "three classes", x, y
        yield "texts of two", x, np.where(y > 0, "jä", "no").astype(object)
        yield "true or false", x, y > 0
        yield "several labels", x, labels
    elif issubclass(kind, RegressorMixin):
        yield "one target", x[:, 1:], np.abs(x[:, 0])
        yield "several targets", x, several
    else:
        yield "numbers", x, y
        yield "single precision", x.astype(np.float32), y


def cases(name: str) -> sweep.Cases:
    """Each of its `problems`: the estimator fitted on it, and the first rows."""
    from sklearn.utils import all_estimators

    kind = dict(all_estimators())[name]
    for told, x, y in problems(name, kind):

        def make(x: Any = x, y: Any = y) -> tuple[Any, Any]:
            model = kind(**arguments(kind))
            model.fit(x, y) if y is not None else model.fit(x)
            return model, x[:40] if hasattr(x, "shape") else x

        yield told, make


if __name__ == "__main__":
    from sklearn.utils import all_estimators

    sys.exit(sweep.main(__doc__ or "", [name for name, _ in all_estimators()], cases))
