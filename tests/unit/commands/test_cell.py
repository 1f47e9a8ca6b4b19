"""The line behind %%cloud, read."""

import pytest

from nbcloud.commands.cell import cell_options, cell_parser
from nbcloud.errors import UsageError


def test_nothing_said_is_the_default():
    options = cell_options("")
    assert options.resources == {}
    assert not options.background
    assert options.outputs == ()


def test_all_that_can_be_said():
    options = cell_options(
        "-c gpu -s train --cpus 2 --memory 8GiB -i a,b --in c -o model,history -o model --bg --timeout 90min "
        "--retries 2 --cache --name 'my run' --tag stage=draft --tag who=me=you"
    )
    assert options.cluster == "gpu"
    assert options.session == "train"
    assert options.resources == {"CPU": 2.0, "MEMORY": 8 * 2**30}
    assert options.inputs == ("a", "b", "c")
    assert options.outputs == ("model", "history")
    assert options.timeout == 5400
    assert options.tags == {"stage": "draft", "who": "me=you"}
    assert (options.background, options.cache, options.retries, options.name) == (True, True, 2, "my run")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--fresh -s x", "contradict"),
        ("--local -c x", "takes no option about where"),
        ("--local --bg", "--local and --bg contradict each other"),
        ("--sweep a=1,2 --workers 2", "Each member has one worker: leave it out"),
        ("--sweep a=1,2 -s x", "--sweep and -s contradict each other"),
        ("--sweep a=1,2 --bg", "nbcloud sweep NOTEBOOK"),
        ("--retries -1", "can't be negative"),
        ("--retries few", "--retries 'few': it must be a whole number. Write for example: --retries 2"),
        ("--cpus two", "--cpus 'two': it must be a number. Write for example: --cpus 0.5"),
        ("--cpus 0", "more than 0"),
        ("--memory 0", "more than 0"),
        ("--memory 8GB8", "not a size"),
        ("--timeout soon", "not a length of time"),
        ("--timeout 0s", "more than 0"),
        ("-s 'a b'", "can't name a session"),
        ("-s ../x", "can't name a session"),
        ("-o 1x", "not the name of a variable"),
        ("-i a.b", "not the name of a variable"),
        ("--tag draft", "not KEY=VALUE"),
        ("--tag =x", "not KEY=VALUE"),
        ("model", "unrecognized arguments: model"),
        ("--gpu 1", "unrecognized arguments"),
    ],
)
def test_what_cannot_be_right_is_said(line, words):
    with pytest.raises(UsageError, match=r"\w") as caught:
        cell_options(line)
    assert words in str(caught.value)


def test_every_flag_is_on_the_manual_page():
    page = cell_parser().format_help()
    assert all(flag in page for flag in cell_parser().flags())
    assert all(len(line) <= 120 for line in page.splitlines())
