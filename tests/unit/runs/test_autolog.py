"""``nbcloud.autolog()``: what real frameworks say, without a change to the code that uses them."""

import pickle
import subprocess

import pytest

from nbcloud.runs.record import RunState
from nbcloud.runs.store import Store

SKLEARN = """
import nbcloud
nbcloud.autolog()
import pandas
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
X, y = load_iris(return_X_y=True, as_frame=True)
make_pipeline(StandardScaler(), LogisticRegression(C=0.5)).fit(X, y)
GridSearchCV(RandomForestClassifier(random_state=0), {"n_estimators": [2, 5]}, cv=2).fit(X.to_numpy(), y=y)
try:
    LogisticRegression().fit(X, y[:3])
except ValueError:
    pass
nbcloud.autolog(disable=True)
LogisticRegression().fit(X, y)
"""
KERAS = """
import nbcloud
import keras, numpy
nbcloud.autolog()
model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)], name="small")
model.compile(keras.optimizers.Adam(0.01), loss="mse", metrics=["mae"])
x, y = numpy.zeros((8, 3)), numpy.zeros((8, 2))
seen = []
model.fit(x, y, 4, 3, 0, [keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: seen.append(1))])
assert seen == [1, 1, 1]
nbcloud.autolog(disable=True)
model.fit(x, y, verbose=0)
"""
TORCH = """
import nbcloud
nbcloud.autolog()
import torch
weights = torch.nn.Parameter(torch.ones(2))
optimizer = torch.optim.SGD([weights], lr=0.1, momentum=0.9)
schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2)
for _ in range(4):
    optimizer.zero_grad()
    loss = (weights**2).sum()
    loss.backward()
    optimizer.step()
    schedule.step()
nbcloud.autolog(disable=True)
optimizer.step()
"""


@pytest.fixture
def run(nbcloud_dirs, start_python, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")

    def start(program):
        program = f"import warnings; warnings.simplefilter('default')\n{program}"  # of their own
        process = start_python(program, stderr=subprocess.PIPE, text=True)
        _, said = process.communicate(timeout=150)
        assert process.returncode == 0, said
        assert "nbcloud.autolog could not" not in said
        with Store() as store:
            runs = list(reversed(store.search()))
            return [(each, store.tracked([each.id])[each.id]) for each in runs], store

    return start


def test_estimators_of_scikit_learn(run):
    (pipeline, searched, failed), _ = run(SKLEARN)
    fitted, logged = pipeline
    assert (fitted.name, fitted.tags["autolog"]) == ("Pipeline", "true")
    assert logged.params["logisticregression__C"] == 0.5
    assert 0.9 < logged.metrics["training_score"] <= 1
    inputs = logged.records["signature"]["value"]["inputs"]
    assert inputs[0] == {"name": "sepal length (cm)", "type": "float64"}
    fitted, logged = searched
    assert fitted.name == "GridSearchCV"
    assert logged.params["best_n_estimators"] in (2, 5)
    assert 0.5 < logged.metrics["best_score"] <= 1
    assert len(logged.records["cv_results"]["value"]["mean_test_score"]) == 2
    assert logged.records["signature"]["value"]["inputs"] == {"shape": [None, 4], "type": "float64"}
    assert failed[0].state is RunState.FAILED


def test_models_of_keras(run):
    ((fitted, logged),), store = run(KERAS)
    assert (fitted.name, fitted.state) == ("small", "done")
    assert (logged.params["epochs"], logged.params["batch_size"], logged.params["loss"]) == (3, 4, "mse")
    assert logged.params["optimizer_learning_rate"] == pytest.approx(0.01)
    assert {"loss", "mae"} <= logged.metrics.keys()
    assert [point.step for point in store.history(fitted.id, "loss")] == [0, 1, 2]
    assert logged.records["signature"]["value"]["inputs"] == "(None, 3)"


def test_loops_of_torch(run):
    ((own, logged),), store = run(TORCH)
    assert logged.params["optimizer_name"] == "SGD"
    assert logged.params["optimizer_momentum"] == 0.9
    losses = store.history(own.id, "loss")
    assert [point.step for point in losses] == [0, 1, 2, 3]
    assert losses[0].value == 2.0
    assert [(p.step, round(p.value, 6)) for p in store.history(own.id, "lr")] == [(0, 0.1), (2, 0.01)]


def test_estimators_stay_what_they_were():
    from sklearn.base import BaseEstimator, clone
    from sklearn.linear_model import LinearRegression

    from nbcloud.runs.autolog import autolog

    before = LinearRegression.fit, BaseEstimator.__dict__.get("__init_subclass__")
    autolog()
    autolog()
    try:
        assert LinearRegression.fit is not before[0]
        assert isinstance(pickle.loads(pickle.dumps(clone(LinearRegression()))), LinearRegression)
    finally:
        autolog(disable=True)
    assert (LinearRegression.fit, BaseEstimator.__dict__.get("__init_subclass__")) == before


def test_where_nothing_can_be_logged_code_runs_all_the_same():
    from sklearn.linear_model import LinearRegression

    from nbcloud.errors import UsageError
    from nbcloud.runs import tracking
    from nbcloud.runs.autolog import autolog

    class Refusing:
        """As in a process that a cell has forked."""

        def begin(self, *_):
            raise UsageError("not here")

        put = end = keep = flush = begin

    with tracking.installed(Refusing()):
        autolog()
        try:
            assert LinearRegression().fit([[1.0], [2.0]], [1.0, 2.0]).coef_ == pytest.approx(1)
            with pytest.raises(ValueError, match="samples"):
                LinearRegression().fit([[1.0], [2.0]], [1.0])
        finally:
            autolog(disable=True)
