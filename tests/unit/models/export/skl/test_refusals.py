"""What can't become ONNX, or would be wrong there, is refused in one sentence that names it and a way out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import DBSCAN, KMeans
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    BaggingClassifier,
    BaggingRegressor,
    HistGradientBoostingClassifier,
    StackingClassifier,
)
from sklearn.feature_selection import SelectFromModel
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier, SGDClassifier
from sklearn.model_selection import FixedThresholdClassifier, GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier, LocalOutlierFactor, RadiusNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    Normalizer,
    OneHotEncoder,
    QuantileTransformer,
    SplineTransformer,
    StandardScaler,
    TargetEncoder,
)
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier

pytest.importorskip("skl2onnx")

from nbcloud.errors import ExportError, VerificationError

RANDOM = np.random.default_rng(0)
X = np.abs(RANDOM.normal(size=(200, 4))).round(1) + 0.1
Y = RANDOM.integers(0, 3, 200)
TWO = Y > 0
LABELS = np.stack([TWO, Y > 1], axis=1).astype(int)


@pytest.mark.parametrize(
    ("model", "y", "told"),
    [
        (DBSCAN(), None, r"DBSCAN has neither predict\(\) nor transform\(\)"),
        (LocalOutlierFactor(), None, r"LocalOutlierFactor tells outliers only among .* novelty=True"),
        (SplineTransformer(), None, r"SplineTransformer can't become ONNX: skl2onnx has no converter for it"),
        (FunctionTransformer(np.log1p), None, r"FunctionTransformer calls the function log1p\(\)"),
        (QuantileTransformer(n_quantiles=9, output_distribution="normal"), None, r"output_distribution='normal'"),
        (Normalizer("max"), None, r"Normalizer has norm='max'"),
        (SimpleImputer(add_indicator=True), None, r"SimpleImputer has add_indicator=True"),
        (GaussianProcessClassifier(), TWO, r"needs the operator Solve, which onnxruntime has not"),
        (RadiusNeighborsClassifier(9.0), Y, r"Use KNeighborsClassifier in its place"),
        (KNeighborsClassifier(weights="distance"), Y, r"KNeighborsClassifier has weights='distance'"),
        (SVC(kernel="precomputed"), None, r""),
        (SVC(break_ties=True), Y, r"SVC has break_ties=True"),
        (SGDClassifier("modified_huber"), Y, r"SGDClassifier has loss='modified_huber' and several classes"),
        (RidgeClassifier(), LABELS, r"RidgeClassifier has several labels"),
        (MLPClassifier(max_iter=5), LABELS, r"MLPClassifier has two labels"),
        (OneVsRestClassifier(LinearSVC()), LABELS, r"OneVsRestClassifier has several labels .* by scores"),
        (BaggingRegressor(LinearRegression()), X[:, :2], r"BaggingRegressor has several targets"),
        (BaggingClassifier(LinearSVC()), Y, r"BaggingClassifier is made of estimators without predict_proba"),
        (DecisionTreeClassifier(), np.where(LABELS, "a", "b"), r"several targets whose classes are texts"),
        (StackingClassifier([("a", SVC())]), TWO, r"StackingClassifier stacks the scores of two classes"),
        (TargetEncoder(), Y, r"TargetEncoder encodes by more than two classes"),
        (CalibratedClassifierCV(method="temperature"), Y, r"CalibratedClassifierCV has method='temperature'"),
        (
            HistGradientBoostingClassifier(categorical_features=[0], max_iter=2),
            Y,
            r"splits by categories .* OneHotEncoder or OrdinalEncoder",
        ),
        (
            make_pipeline(KMeans(3, n_init=1), LogisticRegression()),
            Y,
            r"KMeans hands distances on to another step",
        ),
        (
            make_pipeline(SelectFromModel(FixedThresholdClassifier(LogisticRegression()), importance_getter="estimator_.coef_"), LogisticRegression()),
            TWO,
            r"FixedThresholdClassifier has a threshold of its own inside of another estimator",
        ),
        (make_pipeline(OneHotEncoder(min_frequency=60)), None, r"OneHotEncoder can't become ONNX: skl2onnx says"),
    ],
    ids=lambda each: type(each).__name__ if hasattr(each, "fit") else "",
)  # fmt: skip
def test_it_names_what_can_not_be_and_a_way_out(run, fitted, model: Any, y: Any, told: str) -> None:
    if isinstance(model, SVC) and y is None:
        kernel = X @ X.T
        with pytest.raises(ExportError, match="SVC has kernel='precomputed'"):
            run(fitted(model, kernel, Y), kernel)
        return
    with pytest.raises(ExportError, match=told) as caught:
        run(fitted(model, *([X] if y is None else [X, y])), X[:50])
    assert caught.value.hint
    assert "\n" not in str(caught.value)


def test_neighbours_that_are_equally_far_are_named_as_the_cause(run, fitted) -> None:
    model = fitted(KNeighborsClassifier(3), np.repeat(X[:60].round(), 3, axis=0), np.tile([0, 1, 2], 60))
    with pytest.raises(VerificationError, match="Where several training rows are equally far"):
        run(model, X[:60].round())


def test_an_estimator_of_the_users_own_is_refused(run, fitted) -> None:
    class Mine(LogisticRegression):
        """Known to nobody."""

    with pytest.raises(ExportError, match=r"Mine \(of .*\) can't become ONNX"):
        run(fitted(Mine(), X, Y), X[:50])


def test_an_opset_that_is_not_written_is_refused(run, fitted) -> None:
    with pytest.raises(ExportError, match=r"skl2onnx does not write opset 99\. Say one up to"):
        run(fitted(LinearRegression(), X, Y), X[:50], opset=99)


def test_a_search_without_a_best_estimator_is_refused(run, fitted) -> None:
    search = GridSearchCV(LogisticRegression(), {"C": [1, 2]}, refit=False)
    with pytest.raises(ExportError, match=r"GridSearchCV was told to keep no estimator \(refit=False\)"):
        run(fitted(search, X, Y), X[:50])


def test_columns_chosen_inside_of_an_ensemble_are_refused(run, fitted) -> None:
    table = pd.DataFrame(X, columns=list("abcd"))
    columns = make_pipeline(ColumnTransformer([("n", StandardScaler(), ["a", "b"])]), LogisticRegression())
    with pytest.raises(ExportError, match="skl2onnx wants it before StackingClassifier"):
        run(fitted(StackingClassifier([("one", columns)]), table, Y), table)
