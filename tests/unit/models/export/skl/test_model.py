"""scikit-learn's models become ONNX that answers as they do, or are refused with the step and the reason."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits, load_iris
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import (
    AdaBoostClassifier,
    ExtraTreesClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
    VotingClassifier,
)
from sklearn.feature_selection import RFE
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import FixedThresholdClassifier, RandomizedSearchCV
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier, MultiOutputRegressor
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import KBinsDiscretizer, QuantileTransformer, StandardScaler
from sklearn.random_projection import SparseRandomProjection
from sklearn.semi_supervised import SelfTrainingClassifier
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeRegressor

pytest.importorskip("skl2onnx")

from nbcloud.errors import ExportError, UsageError
from nbcloud.models.export import Exported

X, Y = load_digits(return_X_y=True)
X, Y = X[:600], Y[:600]


def fitted(model: Any, x: Any = X, y: Any = Y) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(x, y)


def gives(made: Exported) -> list[str]:
    return [str(each) for each in made.signature.outputs]


CLASSES = ["label: int64[batch]", "probabilities: float32[batch, 10]"]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (LogisticRegression(max_iter=50), CLASSES),
        (HistGradientBoostingClassifier(max_iter=5), CLASSES),
        (LinearSVC(), ["label: int64[batch]", "scores: float32[batch, 10]"]),
        (GradientBoostingRegressor(n_estimators=5), ["prediction: float32[batch, 1]"]),
        (LinearRegression(), ["prediction: float32[batch, 1]"]),
        (StandardScaler(), ["features: float32[batch, 64]"]),
        (IsolationForest(n_estimators=5), ["label: int64[batch]", "scores: float32[batch, 1]"]),
    ],
    ids=lambda each: type(each).__name__,
)
def test_kinds_of_estimators(run, model: Any, expected: list[str]) -> None:
    made = run(fitted(model), X[:50])
    assert [each.replace(", 1]", "]") for each in gives(made)] == [
        each.replace(", 1]", "]") for each in expected
    ]
    assert [str(each) for each in made.signature.inputs] == ["X: float32[batch, 64]"]
    assert made.report.worst <= 1
    takes_nan = isinstance(model, (HistGradientBoostingClassifier, StandardScaler, IsolationForest))
    assert made.signature.inputs[0].finite != takes_nan


def test_trees_behind_a_scaler_are_exact_by_double_precision(run) -> None:
    model = make_pipeline(StandardScaler(), RandomForestClassifier(20, random_state=0))
    made = run(fitted(model), X)
    assert "float64" in made.metadata.exporter
    assert made.signature.inputs[0].dtype == "float64"


def test_a_machine_of_two_classes_has_scores_of_the_right_sign(run) -> None:
    made = run(fitted(SVC(), X, Y > 4), X[:200])
    assert made.signature.outputs[1].name == "scores"
    assert made.signature.outputs[0].labels == (False, True)


@pytest.mark.parametrize("classes", [Y, Y > 4], ids=["ten", "two"])
def test_a_linear_machine_without_an_intercept(run, classes: Any) -> None:
    made = run(fitted(LinearSVC(fit_intercept=False), X, classes), X[:50])
    assert made.report.worst <= 1


NOISE = np.random.default_rng(1).random(len(X)) > 0.5


@pytest.mark.parametrize(
    "model",
    [RandomForestClassifier(10, random_state=0), ExtraTreesClassifier(20, bootstrap=True, random_state=0)],
    ids=lambda each: type(each).__name__,
)
def test_a_forest_that_is_undecided_tells_the_first_class(run, model: Any) -> None:
    answers = fitted(model, X[:300, 20:30], NOISE[:300]).predict_proba(X[:, 20:30])
    assert (answers[:, 0] == 0.5).sum() > 5
    assert run(model, X[:, 20:30]).report.ties == 0


@pytest.mark.parametrize(
    "model",
    [
        DecisionTreeRegressor(),
        RandomForestClassifier(10, random_state=0),
        make_pipeline(StandardScaler(), RandomForestClassifier(10, random_state=0)),
        HistGradientBoostingClassifier(max_iter=5),
    ],
    ids=["tree", "forest", "scaled", "boosting"],
)
def test_what_is_missing_goes_its_way_in_trees(run, model: Any) -> None:
    holed = np.where(np.random.default_rng(0).random(X.shape) < 0.2, np.nan, X)
    made = run(fitted(model, holed, NOISE), holed[:200])
    assert not made.signature.inputs[0].finite


def test_boosting_behind_a_scaler_compares_in_double_precision(run) -> None:
    model = make_pipeline(StandardScaler(), HistGradientBoostingRegressor(max_iter=20))
    data = np.random.default_rng(1).normal(size=(400, 5))
    made = run(fitted(model, data, data[:, 0] ** 2), data)
    assert made.signature.inputs[0].dtype == "float64"
    made = run(fitted(HistGradientBoostingRegressor(loss="poisson", max_iter=5), data, data[:, 0] ** 2), data)
    assert made.report.worst < 1


@pytest.mark.parametrize("kind", ["bool", "uint8", "float", "large", "text", "gaps"])
@pytest.mark.parametrize(
    "model",
    [LogisticRegression(), GaussianNB(), AdaBoostClassifier(n_estimators=3), OneVsOneClassifier(LinearSVC())],
    ids=lambda each: type(each).__name__,
)
def test_classes_of_any_type(run, model: Any, kind: str) -> None:
    y = load_iris().target
    given = {
        "bool": y > 0,
        "uint8": y.astype(np.uint8),
        "float": y.astype(float),
        "large": y * 10**12,
        "text": np.array(["ä", "b", "c"])[y],
        "gaps": y * 5 + 2,
    }[kind]
    data = load_iris().data
    fitted(model, data, given)
    if kind == "bool" and isinstance(model, OneVsOneClassifier):
        with pytest.raises(ExportError, match="OneVsOneClassifier has two classes"):
            run(model, data)
        return
    made = run(model, data[::3])
    assert made.signature.outputs[0].labels == tuple(model.classes_.tolist())
    assert made.signature.outputs[0].dtype == ("str" if kind == "text" else "int64")


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (RandomForestRegressor(5), ["prediction: float32[batch, 2]"]),
        (MLPRegressor(max_iter=5), ["prediction: float32[batch, 2]"]),
        (MultiOutputRegressor(Ridge()), ["prediction: float32[batch, 2]"]),
        (RandomForestClassifier(5), ["label: int64[batch, 2]", "probabilities: float32[2, batch, 2]"]),
        (
            MultiOutputClassifier(LogisticRegression()),
            ["label: int64[batch, 2]", "probabilities: float32[2, batch, 2]"],
        ),
    ],
    ids=lambda each: type(each).__name__,
)
def test_several_targets_have_the_shapes_that_they_have(run, model: Any, expected: list[str]) -> None:
    targets = (X[:, 20:22] > 8).astype(int)
    assert gives(run(fitted(model, X, targets), X[:50])) == expected


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (GaussianMixture(2, random_state=0), ["label", "probabilities"]),
        (VotingClassifier([("a", LogisticRegression()), ("b", GaussianNB())]), ["label"]),
        (
            VotingClassifier(
                [("a", LogisticRegression()), ("b", GaussianNB())], voting="soft", weights=[1, 2]
            ),
            ["label", "probabilities"],
        ),
        (LinearDiscriminantAnalysis(), ["label", "probabilities"]),
        (make_pipeline(LinearDiscriminantAnalysis(), LogisticRegression()), ["label", "probabilities"]),
        (RFE(LogisticRegression(), n_features_to_select=3), ["label", "probabilities"]),
        (FixedThresholdClassifier(LogisticRegression(), threshold=0.9), ["label", "probabilities"]),
        (RandomizedSearchCV(LinearSVC(), {"C": [0.1, 1]}, n_iter=2), ["label", "scores"]),
        (SelfTrainingClassifier(LogisticRegression()), ["label", "probabilities"]),
        (OneVsRestClassifier(LinearSVC()), ["label", "scores"]),
        (KBinsDiscretizer(3, quantile_method="averaged_inverted_cdf"), ["features"]),
        (QuantileTransformer(n_quantiles=100), ["features"]),
        (SparseRandomProjection(3, random_state=0), ["features"]),
        (SimpleImputer(strategy="constant", fill_value=-1), ["features"]),
        (make_pipeline("passthrough", StandardScaler()), ["features"]),
    ],
    ids=lambda each: type(each).__name__ if hasattr(each, "fit") else "",
)
def test_what_skl2onnx_has_otherwise_or_not(run, model: Any, names: list[str]) -> None:
    data = load_iris().data
    made = run(fitted(model, data, load_iris().target > 0), data[::4])
    assert [each.name for each in made.signature.outputs] == names


def test_names_and_labels_are_those_that_were_asked_for(run) -> None:
    asked = {"input_names": ["pixels"], "output_names": ["digit", "p"], "labels": list("abcdefghij")}
    made = run(fitted(LogisticRegression(max_iter=20)), X[:50], **asked)
    assert made.signature.inputs[0].name == "pixels"
    assert [each.name for each in made.signature.outputs] == ["digit", "p"]
    assert made.signature.outputs[1].labels == tuple("abcdefghij")
    for wrong, told in (
        ({"labels": ["a"]}, "1 labels were given, and the model has 10 classes"),
        ({"output_names": ["a"]}, "1 names for outputs were given, and the model has 2"),
        ({"input_names": ["a", "b"]}, "2 names for inputs were given, and the model has 1"),
    ):
        with pytest.raises(UsageError, match=told):
            run(fitted(LogisticRegression(max_iter=20)), X[:50], **wrong)


def test_an_untrained_model_is_refused(run) -> None:
    with pytest.raises(ExportError, match=r"The model is not trained: .*SVC"):
        run(SVC(), X[:3])


def test_what_is_no_model_is_refused(run) -> None:
    with pytest.raises(ExportError, match=r"nbcloud can't export a builtins\.dict"):
        run({}, X[:3])
