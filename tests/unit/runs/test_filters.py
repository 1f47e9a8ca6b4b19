"""The filter language: what it finds, what it refuses, and that nothing typed becomes SQL."""

import random

import pytest

from nbcloud.errors import UsageError
from nbcloud.runs import search
from nbcloud.runs.entries import line
from nbcloud.runs.filters import parse
from nbcloud.runs.record import Run, new_run_id
from nbcloud.runs.store import Store

NOW = 1_800_000_000.0


def facts(number):
    source = random.Random(number)
    return {
        "loss": round(source.random(), 2),
        "lr": source.choice([0.1, 0.01, 1]),
        "model": source.choice(["resnet", "Resnet", "vit"]),
        "deep": source.choice([True, False]),
        "team": source.choice(["vision", "nlp", "100"]),
        "val": source.random() if number % 3 == 0 else None,
    }


@pytest.fixture(scope="module", params=["few", "many"])
def filled(request, tmp_path_factory):
    """300 runs; once each condition is taken for one that few runs meet, once none is."""
    with pytest.MonkeyPatch.context() as patch, Store(tmp_path_factory.mktemp("store")) as store:
        if request.param == "many":
            patch.setattr(search, "_FEW", 0)
        runs = {}
        for number in range(300):
            created = NOW + number * 60
            known = facts(number)
            run = store.begin(
                Run(
                    id=new_run_id(created), created=created, name=f"run{number}", tags={"team": known["team"]}
                )
            )
            entries = [
                ["metric", "loss", known["loss"], 1, 1.0],
                ["metric", "loss", 99.0, 0, 2.0],
                ["param", "lr", known["lr"]],
                ["param", "model", known["model"]],
                ["param", "deep", known["deep"]],
            ]
            if known["val"] is not None:
                entries.append(["metric", "val loss", known["val"], None, 1.0])
            store.append(run.id, line(1, 1.0, {"run": "", "entries": entries}))
            runs[run.id] = known | {"name": run.name, "created": created}
        yield store, runs


@pytest.mark.parametrize(
    ("text", "meets"),
    [
        ("metrics.loss < 0.3", lambda f: f["loss"] < 0.3),
        ("metrics.loss<.3 and params.lr=0.1", lambda f: f["loss"] < 0.3 and f["lr"] == 0.1),
        ("metric.loss >= 3e-1 AND param.lr != 0.1", lambda f: f["loss"] >= 0.3 and f["lr"] != 0.1),
        ("params.lr = '0.1'", lambda f: f["lr"] == 0.1),
        ("params.lr = 1", lambda f: f["lr"] == 1),
        ("params.lr > 0.05 and params.lr <= 0.1", lambda f: f["lr"] == 0.1),
        ("params.lr in (0.1, 1)", lambda f: f["lr"] in (0.1, 1)),
        ("parameters.model = 'resnet'", lambda f: f["model"] == "resnet"),
        ("params.model like 'r%'", lambda f: f["model"] == "resnet"),
        ("params.model ILIKE 'r_snet'", lambda f: f["model"] in ("resnet", "Resnet")),
        ("params.model not in ('vit')", lambda f: f["model"] != "vit"),
        ("params.deep = true", lambda f: f["deep"]),
        ("tags.team = 'vision' and metrics.loss > 0.5", lambda f: f["team"] == "vision" and f["loss"] > 0.5),
        ("tags.team == 100", lambda f: f["team"] == "100"),
        ('metrics."val loss" > 0.5', lambda f: (f["val"] or 0) > 0.5),
        ("metrics.`val loss` is not null", lambda f: f["val"] is not None),
        ("metrics.`val loss` is null and metrics.loss < 0.5", lambda f: f["val"] is None and f["loss"] < 0.5),
        ("name = 'run7'", lambda f: f["name"] == "run7"),
        ("attributes.run_name like 'run1_'", lambda f: f["name"][:4] == "run1" and len(f["name"]) == 5),
        ("status = 'RUNNING'", lambda f: False),
        ("attr.status in ('QUEUED', 'finished')", lambda f: True),
        (f"created >= {NOW + 6000}", lambda f: f["created"] >= NOW + 6000),
        (
            "end_time is null and start_time < '2027-01-15T10:00:00+00:00'",
            lambda f: f["created"] < 1_800_007_200,
        ),
        ('params.model = "resnet\' OR 1=1 --"', lambda f: False),
        ("metrics.`loss' OR '1'='1` > 0", lambda f: False),
    ],
)
def test_what_a_filter_finds(filled, text, meets):
    store, runs = filled
    found = [run.id for run in store.search(filter=text, limit=1000)]
    assert found == [run_id for run_id in reversed(runs) if meets(runs[run_id])]
    assert [run.id for run in store.search(filter=text, limit=3)] == found[:3]


def test_filters_and_other_conditions(filled):
    store, runs = filled
    found = store.search("run1", tag="team=nlp", filter="metrics.loss < 0.5", since=NOW + 600, limit=1000)
    assert [run.id for run in found] == [
        run_id
        for run_id, f in reversed(runs.items())
        if f["name"].startswith("run1")
        and f["team"] == "nlp"
        and f["loss"] < 0.5
        and f["created"] >= NOW + 600
    ]


@pytest.mark.parametrize(
    ("order", "key", "descending"),
    [
        ("metrics.loss", "loss", False),
        ("metrics.loss DESC", "loss", True),
        ('metrics."val loss" asc', "val", False),
        ("params.lr desc", "lr", True),
        ("created", "created", False),
    ],
)
def test_the_best_come_first(filled, order, key, descending):
    store, runs = filled
    conditions = {"tag": "team=nlp", "filter": "params.deep = true", "since": NOW + 600, "limit": 20}
    found = [runs[run.id][key] for run in store.search("run", order_by=order, **conditions)]
    values = [
        f[key]
        for f in runs.values()
        if f["team"] == "nlp" and f["deep"] and f["created"] >= NOW + 600 and f[key] is not None
    ]
    assert found == sorted(values, reverse=descending)[:20]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "can't be read at its end: here must be what is compared"),
        ("metrics.loss", "at its end: here must be =, !="),
        ("metrics.loss < ", "at its end: here must be a value"),
        ("metrics.loss < 'a'", "a metric is compared with a number"),
        ("metrics.loss < 0.3 or params.lr = 1", "joined by and. Search once for each"),
        ("metrics.loss < 0.3 params.lr = 1", "at 'params.lr = 1': here must be and, or the end"),
        ("metrix.loss < 0.3", "Did you mean metrics.loss?"),
        ("stats = 'a'", "Did you mean status, metrics.stats or params.stats?"),
        ("status = 'good'", "that is no state of a run"),
        ("created > 'yesterday'", "a time is unix seconds"),
        ("params.lr in 0.1", "values in parentheses"),
        ("params.lr in (0.1", "the parenthesis is not closed"),
        ("params.a = 'x", "nothing of a filter begins so"),
        ("params.a not 'x'", "behind not must be in"),
        ("params.a is 3", "behind is must be null"),
        ("run_id = 'abc'", "that is not the whole id of a run"),
        ("metrics.loss < 0.3; DROP TABLE runs", "nothing of a filter begins so"),
    ],
)
def test_what_is_refused(text, says):
    with pytest.raises(UsageError) as refused:
        parse(text)
    assert says in str(refused.value)


@pytest.mark.parametrize("order", ["tags.team", "metrics.loss down", "what", ""])
def test_orders_that_are_refused(filled, order):
    store, _ = filled
    if order:
        with pytest.raises(UsageError):
            store.search(order_by=order)
