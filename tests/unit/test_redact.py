import base64
import html
import json
import random
import time
from urllib.parse import quote, quote_plus

import pytest

from nbcloud.redact import Redactor, environment_secrets, looks_secret
from nbcloud.runs.masked import redact_outputs, redact_run
from nbcloud.runs.record import Run

SECRET = 'pa"ss/w+ö rd&1\n'


@pytest.mark.parametrize(
    "shown",
    [
        SECRET,
        SECRET.replace("\n", "\r\n"),
        json.dumps(SECRET),
        json.dumps(SECRET, ensure_ascii=False),
        repr(SECRET),
        html.escape(SECRET),
        quote(SECRET),
        quote(SECRET, safe=""),
        quote(SECRET, safe="").lower(),
        quote_plus(SECRET),
        base64.b64encode(SECRET.strip().encode()).decode(),
        base64.urlsafe_b64encode(SECRET.strip().encode()).decode(),
        "Basic " + base64.b64encode(b"user:" + SECRET.encode()).decode(),
        "Basic " + base64.b64encode(b"me:" + SECRET.encode() + b"!").decode(),
        "Basic " + base64.b64encode(b"root:" + SECRET.encode() + b"??").decode(),
    ],
)
def test_a_secret_is_found_as_programs_write_it(shown):
    redacted = Redactor({"P": SECRET}).text(f"before {shown} after")
    assert "***" in redacted
    assert redacted.startswith("before ")
    assert redacted.endswith(" after")
    for part in ("ss/w", "ss%2", "ss\\/w", base64.b64encode(SECRET.strip().encode())[4:10].decode()):
        assert part not in redacted


def test_the_longest_secret_goes_first():
    assert Redactor({"A": "abcdef", "B": "abcdefgh"}).text("abcdefgh abcdefg") == "*** ***g"


def test_short_values_are_left_and_named():
    redactor = Redactor({"PIN": "12345", "EMPTY": " ", "KEY": "123456"})
    assert redactor.ignored == ("PIN", "EMPTY")
    assert redactor.text("12345 123456") == "12345 ***"


def test_without_secrets_nothing_is_touched():
    redactor = Redactor({})
    value = {"a": ["text"]}
    assert not redactor
    assert redactor.json(value) is value
    assert redactor.stream("text") == "text"
    assert redactor.flush() == ""


def test_json_values_and_keys():
    redactor = Redactor({"K": "hunter2x"})
    assert redactor.json({"hunter2x": ["a hunter2x", 1, None, True, ("hunter2x",)]}) == {
        "***": ["a ***", 1, None, True, ["***"]]
    }


def test_a_stream_in_pieces_gives_what_the_whole_text_gives():
    random.seed(5)
    for _ in range(300):
        letters = "abc\n"
        secrets = {str(i): "".join(random.choices(letters, k=random.randint(6, 9))) for i in range(4)}
        redactor = Redactor(secrets)
        values = [value.strip() for value in secrets.values()]
        text = "".join(random.choice([*values, *letters, values[0][:4]]) for _ in range(40))
        pieces, rest = [], text
        while rest:
            size = random.choice([1, 2, 3, 7, 50])
            pieces.append(redactor.stream(rest[:size]))
            rest = rest[size:]
        pieces.append(redactor.flush())
        assert "".join(pieces) == redactor.text(text)
        assert not any(len(value) >= 6 and value in "".join(pieces) for value in values)


def test_a_stream_holds_back_only_the_beginning_of_a_secret():
    redactor = Redactor({"A": "secret-1", "B": "secret-1-long"})
    assert redactor.stream("hello sec") == "hello "
    assert redactor.stream("ond") == "second"
    assert redactor.stream("secret-1") == ""
    assert redactor.stream("x") == "***x"
    assert redactor.stream("secret-1-lon") == ""
    assert redactor.flush() == "***-lon"
    assert redactor.stream("g") == "g"


def test_streams_are_apart_after_a_fork():
    out = Redactor({"A": "secret-1"})
    err = out.fork()
    assert out.stream("secr") + err.stream("et-1") == "et-1"
    assert out.stream("et-1") == "***"
    assert err.fork().flush() == ""


def test_the_time_that_it_takes_grows_as_the_text_does():
    secrets = {str(i): base64.b64encode(random.Random(i).randbytes(24)).decode() for i in range(10)}
    redactor = Redactor(secrets)
    line = "epoch 3 loss=0.123 path=/usr/lib/python3 0x7f3a Traceback\n"

    def spent(lines: int) -> float:
        text = line * lines
        start = time.process_time()
        assert redactor.text(text) == text
        assert "".join(redactor.stream(text[i : i + 1000]) for i in range(0, len(text), 1000)) == text
        return time.process_time() - start

    spent(100)
    assert spent(16_000) < 40 * max(spent(2_000), 0.001)  # not the 64 times of what is quadratic


@pytest.mark.parametrize(
    "name",
    [
        "GITHUB_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_ACCESS_KEY_ID",
        "DB_PASSWORD",
        "PGPASSWORD",
        "OPENAI_API_KEY",
        "OPENAI_APIKEY",
        "openaiApiKey",
        "SMTP_PASS",
        "MYSQL_PWD",
        "HTTP_AUTH",
        "APP_CREDENTIALS",
        "SSH_PRIVATE_KEY",
        "GITHUB_PAT",
        "STRIPE_KEY",
        "AZURE_STORAGE_CONNECTION_STRING",
        "hf-token",
        "MySecret",
    ],
)
def test_names_that_look_secret(name):
    assert looks_secret(name)


@pytest.mark.parametrize(
    "name",
    [
        "GIT_AUTHOR_NAME",
        "KEYBOARD",
        "XKB_KEYBOARD",
        "SSH_AUTH_SOCK",
        "XDG_SESSION_ID",
        "TOKENIZERS_PARALLELISM",
        "KEYRING",
        "PWD",
        "OLDPWD",
        "MONKEY",
        "COMPASS",
        "PASSENGER_ROOT",
        "SECRETARY",
        "PATH",
        "AUTHORITY",
        "KEY",
        "PYTHONPATH",
    ],
)
def test_names_that_do_not(name):
    assert not looks_secret(name)


@pytest.mark.parametrize(
    "value",
    ["hunter2x", "s3cr3t", "/aBcd+ef/gh/notafolder", "correct-horse-battery-staple", "AKIAIOSFODNN7EXAMPLE"],
)
def test_values_that_are_secrets(value):
    assert environment_secrets({"A_TOKEN": value, "NAME": value}) == {"A_TOKEN": value}


@pytest.mark.parametrize(
    "value",
    [
        "",
        "true",
        "abc1",
        "12345678",
        "1.2.3",
        "2024-01-01",
        "production",
        "us-east-1",
        "read_only",
        "10GB",
        "Bearer",
        "https://a.example/b",
        "/tmp",
        "/tmp/nothing/here",
        "~/.ssh/id",
        "./x/y.pem",
        "C:\\Users\\me",
    ],
)
def test_values_that_are_none(value):
    assert environment_secrets({"A_TOKEN": value}) == {}


def test_the_password_in_a_url_is_a_secret():
    environ = {
        "DATABASE_URL": "postgres://me:p%40ssw0rd@db/x",
        "OTHER": "postgres://postgres:postgres@db",
        "B": "x://[:y@",
    }
    assert environment_secrets(environ) == {"DATABASE_URL": "p@ssw0rd"}


def test_a_run_keeps_its_identity_and_nothing_else_in_clear():
    redactor = Redactor({"A": "hunter2x"})
    run = Run(
        notebook="/hunter2x.ipynb", code="x='hunter2x'", tags={"a": "hunter2x"}, error={"evalue": "hunter2x"}
    )
    kept = redact_run(redactor, run)
    assert (kept.id, kept.notebook) == (run.id, run.notebook)
    assert (kept.code, kept.tags, kept.error) == ("x='***'", {"a": "***"}, {"evalue": "***"})


def test_outputs_stay_outputs():
    redactor = Redactor({"A": "stream", "B": "text/plain"})
    outputs = [
        {"output_type": "stream", "name": "stdout", "text": "a stream"},
        {"output_type": "display_data", "data": {"text/plain": "text/plain"}, "metadata": {"a": "stream"}},
        {"output_type": "error", "ename": "stream", "evalue": "stream", "traceback": ["stream"]},
    ]
    assert redact_outputs(redactor, outputs) == [
        {"output_type": "stream", "name": "stdout", "text": "a ***"},
        {"output_type": "display_data", "data": {"text/plain": "***"}, "metadata": {"a": "***"}},
        {"output_type": "error", "ename": "***", "evalue": "***", "traceback": ["***"]},
    ]
