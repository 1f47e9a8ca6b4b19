"""The journal of one run: every message has its number, and what had to be dropped is said."""

import asyncio
import json
import random
import subprocess
import sys
from pathlib import Path

from nbcloud.sessions.runlog import DROPPED, RunLog


def content(number, size=20):
    return json.dumps({"text": f"{number} " + "x" * size}).encode()


def read_all(log, after=0, limit=10_000):
    lines = []
    while after < log.count:
        last, data = log.read(after, limit)
        assert last > after
        after = last
        lines += [json.loads(line) for line in data.splitlines()]
    return lines


def test_a_reader_gets_all_after_any_number_whatever_the_memory(tmp_path):
    chance = random.Random(1)
    log = RunLog(tmp_path / "run.jsonl", memory=3000)
    for number in range(1, 201):
        log.append("stream", content(number, chance.randrange(200)))
    assert log.dropped == 0
    for after in (0, 1, 77, 198, 199, 200):
        for limit in (1, 500, 10**9):
            assert [line["n"] for line in read_all(log, after, limit)] == list(range(after + 1, 201))
    assert (tmp_path / "run.jsonl").read_bytes().count(b"\n") == 200
    assert (tmp_path / "run.jsonl").stat().st_mode & 0o777 == 0o600
    log.remove()


def test_a_closed_log_reads_the_same_and_holds_neither_memory_nor_a_file(tmp_path):
    before = {entry.name for entry in Path("/proc/self/fd").iterdir()}
    log = RunLog(tmp_path / "run.jsonl", memory=10**9)
    for number in range(1, 1001):
        log.append("stream", content(number, 200))
    expected = read_all(log)
    log.close()
    assert read_all(log) == expected
    assert log._bytes == 0
    assert {entry.name for entry in Path("/proc/self/fd").iterdir()} == before
    log.append("stream", content(1001))  # a straggler
    assert [line["n"] for line in read_all(log, 990)] == list(range(991, 1002))
    log.remove()
    assert not list(tmp_path.iterdir())


def test_without_a_file_the_oldest_go_and_the_reader_is_told_which():
    log = RunLog(None, memory=2000)
    for number in range(1, 101):
        log.append("stream", content(number, 100))
    lines = read_all(log)
    gap = lines[0]
    assert gap["msg_type"] == DROPPED
    assert gap["content"]["first"] == 1
    assert gap["content"]["last"] == log.dropped == 100 - len(lines) + 1
    assert [line["n"] for line in lines[1:]] == list(range(log.dropped + 1, 101))


FULL = """
import json, resource, signal, sys
from pathlib import Path
from nbcloud.sessions.runlog import RunLog
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
log = RunLog(Path(sys.argv[1]), memory=3000)
for number in range(1, 101):
    log.append("stream", json.dumps({"text": "x" * 100}).encode())
after, lines = 0, []
while after < log.count:
    after, data = log.read(after, 1000)
    lines += [json.loads(line) for line in data.splitlines()]
print(json.dumps({"lines": [[l["n"], l["msg_type"], l["content"]] for l in lines], "dropped": log.dropped,
                  "failure": log.failure, "count": log.count}))
"""


def test_a_full_disk_drops_only_what_it_says(tmp_path):
    path = tmp_path / "run.jsonl"
    run = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, check=True)
    end = json.loads(run.stdout)
    assert "can't take more" in end["failure"]
    gaps = [content for _, kind, content in end["lines"] if kind == DROPPED]
    (gap,) = gaps
    assert gap["last"] - gap["first"] + 1 == end["dropped"] > 0
    read = [number for number, kind, _ in end["lines"] if kind != DROPPED]
    assert read == [n for n in range(1, 101) if not gap["first"] <= n <= gap["last"]]
    # No torn line is left behind.
    in_file = [json.loads(line)["n"] for line in path.read_bytes().splitlines()]
    assert in_file == list(range(1, gap["first"]))


def test_one_who_waits_is_woken_by_a_message_and_by_the_end():
    async def scenario():
        log = RunLog(None, 1000)
        waits = asyncio.create_task(log.grown(0)), asyncio.create_task(log.grown(1))
        await asyncio.sleep(0)
        log.append("stream", b"{}")
        await asyncio.wait_for(waits[0], 5)
        assert not waits[1].done()
        log.close()
        await asyncio.wait_for(waits[1], 5)

    asyncio.run(scenario())
