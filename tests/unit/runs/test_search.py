import random
import time

import pytest

from nbcloud.runs import index
from nbcloud.runs.record import Run, RunState, new_run_id
from nbcloud.runs.store import Store

NOW = 1_800_000_000.0
WORDS = ["model", "fit", "loss", "read_csv", "np.array", "plot", *(f"var{i}" for i in range(50))]


def generated(count):
    """Runs as in a real store: many done, few of the rest, over many notebooks."""
    source = random.Random(3)
    for i in range(count):
        created = NOW - (count - i) * 60
        state = source.choices(list(RunState), [0, 1, 900, 60, 20, 8, 10])[0]
        yield Run(
            id=new_run_id(created),
            created=created,
            state=state,
            name=source.choice(["", "eval", f"train{i}"]),
            code="import numpy\n" + "\n".join(" ".join(source.choices(WORDS, k=6)) for _ in range(5)),
            notebook=f"/home/me/study-{source.randrange(40)}/train.ipynb",
            session=f"s{source.randrange(100)}",
            cluster=source.choice(["local", "gpu"]),
            tags={"lr": str(source.choice([0.1, 0.01])), "member": str(i % 50)} if i % 4 == 0 else {},
            error={"ename": "ValueError", "evalue": "bad shape"} if state is RunState.FAILED else None,
        )


def fill(store, runs):
    store._database.write(lambda connection: [index.put(connection, run, None) for run in runs])


@pytest.fixture(scope="module")
def runs():
    return list(reversed(list(generated(2000))))


@pytest.fixture(scope="module", params=["FTS5", "no FTS5"])
def filled(request, tmp_path_factory, runs):
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "no FTS5":
            patch.setattr(index, "_knows_fts5", lambda connection: False)
        with Store(tmp_path_factory.mktemp("store")) as store:
            fill(store, runs)
            yield store


def has(*words):
    return lambda run: all(word in " ".join([run.name, run.code, *run.tags]) for word in words)


@pytest.mark.parametrize(
    ("conditions", "meets"),
    [
        ({}, lambda run: True),
        ({"text": "import"}, lambda run: True),
        ({"text": "  "}, lambda run: True),
        ({"text": "read_csv"}, has("read_csv")),
        ({"text": "READ_CSV np.array"}, has("read_csv", "np.array")),
        ({"text": "var1"}, has("var1")),
        ({"text": "train19"}, has("train19")),
        ({"text": "ValueError"}, lambda run: run.error),
        ({"text": "nowhere"}, lambda run: False),
        ({"text": "plot", "state": "failed"}, lambda run: run.error and "plot" in run.code),
        ({"text": "plot", "tag": "lr=0.1"}, lambda run: run.tags.get("lr") == "0.1" and "plot" in run.code),
        ({"state": "failed"}, lambda run: run.state == "failed"),
        ({"state": RunState.RUNNING}, lambda run: run.state == "running"),
        ({"state": ["done", RunState.LOST]}, lambda run: run.state in ("done", "lost")),
        ({"state": ("lost", "running")}, lambda run: run.state in ("running", "lost")),
        ({"cluster": "gpu"}, lambda run: run.cluster == "gpu"),
        ({"cluster": "gpu", "state": "lost"}, lambda run: run.cluster == "gpu" and run.state == "lost"),
        ({"session": "s5"}, lambda run: run.session == "s5"),
        ({"notebook": "/home/me/study-7/train.ipynb"}, lambda run: "study-7/" in run.notebook),
        ({"notebook": "study"}, lambda run: False),
        ({"tag": "lr"}, lambda run: "lr" in run.tags),
        ({"tag": "lr=0.1"}, lambda run: run.tags.get("lr") == "0.1"),
        ({"tag": ["lr=0.1", "member=8"]}, lambda run: run.tags == {"lr": "0.1", "member": "8"}),
        ({"name": "eval"}, lambda run: run.name == "eval"),
        ({"name": "train19*"}, lambda run: run.name.startswith("train19")),
        ({"name": "train19*", "tag": "lr"}, lambda run: run.name.startswith("train19") and run.tags),
        ({"since": NOW - 3600}, lambda run: run.created >= NOW - 3600),
        (
            {"since": NOW - 36000, "text": "plot"},
            lambda run: run.created >= NOW - 36000 and "plot" in run.code,
        ),
        ({"since": NOW - 36000, "tag": "lr"}, lambda run: run.created >= NOW - 36000 and run.tags),
        ({"since": NOW - 9e4, "state": "failed"}, lambda run: run.created >= NOW - 9e4 and run.error),
    ],
)
@pytest.mark.parametrize("limit", [10, 5000])
def test_a_search_finds_exactly_what_meets_it_newest_first(filled, runs, conditions, meets, limit):
    expected = [run for run in runs if meets(run)][:limit]
    assert filled.search(**conditions, limit=limit) == expected


@pytest.mark.parametrize(
    "text", ['"', "a OR", "NEAR(", "*", "==", "x'--", "col:umn", "%", "\ud800", "-a", "^a"]
)
def test_any_text_may_be_searched(filled, text):
    assert isinstance(filled.search(text), list)


def test_the_beginning_of_a_word_finds_it(filled, runs):
    assert filled.search("mod", limit=5000) == [run for run in runs if "model" in run.code]


def test_changes_are_found(tmp_path):
    with Store(tmp_path) as store:
        run = store.begin(Run(name="alpha", tags={"k": "old"}))
        run = store.update(run.id, name="beta", tags={"k": "new"})
        assert store.search("alpha") == store.search("old") == store.search(tag="k=old") == []
        assert store.search("beta new") == store.search(tag="k=new") == store.search(name="beta") == [run]


def test_runs_written_without_fts5_are_indexed_when_it_is_there(tmp_path, monkeypatch):
    with Store(tmp_path) as store:
        old = store.begin(Run(code="early word"))
        with monkeypatch.context() as patch:
            patch.setattr(index, "_knows_fts5", lambda connection: False)
            store.begin(Run(code="middle word"))
            store.update(old.id, code="changed word")
            assert len(store.search("word")) == 2
        store.close()
        assert [run.code for run in store.search("word")] == ["middle word", "changed word"]
        assert store.search("early") == []


def test_search_stays_instant(tmp_path):
    # A small version of the measurement over 100,000 runs (1 to 2 ms there).
    with Store(tmp_path) as store:
        fill(store, generated(5000))

        def best(**conditions):
            def seconds():
                start = time.perf_counter()
                store.search(**conditions)
                return time.perf_counter() - start

            return min(seconds() for _ in range(5))

        assert (
            max(best(text="var1"), best(state="failed"), best(tag="lr=0.1"), best(), best(cluster="x")) < 0.02
        )
