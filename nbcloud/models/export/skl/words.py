r"""Texts, whose words or characters are counted before the graph: ONNX takes them apart otherwise.

The tokenizer of onnxruntime knows neither Python's ``\w`` nor its lower case beyond ASCII, and skl2onnx has
n-grams over words that scikit-learn drops. So each such estimator becomes a step of `nbcloud.models.words`,
which does what scikit-learn does, and the graph begins with the step's numbers.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

from nbcloud.errors import ExportError
from nbcloud.models.signature import TEXT, Tensor
from nbcloud.models.words import COUNT_WORDS

_DOMAIN = "nbcloud"
_PLACE = "place"
_PASSES = ("Identity", "Reshape", "Flatten", "Squeeze", "Cast")


def counts(part: Any) -> bool:
    """Whether this estimator counts the words of texts."""
    return type(part).__name__ in ("CountVectorizer", "TfidfVectorizer")


def refuse(part: Any) -> None:
    """Refuse one that does so by a function of the user's."""
    kind = type(part).__name__
    for name in ("analyzer", "tokenizer", "preprocessor", "strip_accents"):
        if callable(getattr(part, name)):
            raise ExportError(
                f"{kind} has a function of your own as its {name}=, which can't leave Python.",
                "Use token_pattern= and the standard options, or do this before and export the steps behind.",
                part=kind,
            )
    if part.input != "content":
        raise ExportError(
            f"{kind} reads files (input={part.input!r}), which no model can.",
            "Read the texts before, and train with input='content'.",
            part=kind,
        )
    if part.analyzer == "word" and re.compile(part.token_pattern).groups > 1:
        raise ExportError(
            f"{kind} has a token_pattern with several groups.", "Give it at most one.", part=kind
        )


def stand_in(part: Any, place: str, precision: str) -> Any:
    """What takes the estimator's place, until `cut` makes an input of the graph of it."""
    return _stand_in()(place, len(part.vocabulary_), precision)


@functools.cache
def _stand_in() -> Any:
    from skl2onnx import update_registered_converter
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType
    from sklearn.base import BaseEstimator, TransformerMixin

    class StandIn(TransformerMixin, BaseEstimator):
        """A step that is done before the graph."""

        def __init__(self, place: str = "", width: int = 0, precision: str = "float32") -> None:
            self.place, self.width, self.precision = place, width, precision

        def transform(self, values: Any) -> Any:
            """Nothing: it is never asked, only converted."""
            raise NotImplementedError

    def shape(operator: Any) -> None:
        own = operator.raw_operator
        kind = DoubleTensorType if own.precision == "float64" else FloatTensorType
        operator.outputs[0].type = kind([None, own.width])

    def convert(scope: Any, operator: Any, container: Any) -> None:  # noqa: ARG001 - as skl2onnx calls it
        place = operator.raw_operator.place
        names = [each.full_name for each in operator.inputs], [each.full_name for each in operator.outputs]
        container.add_node("StandIn", *names, op_domain=_DOMAIN, name=place, place=place)

    update_registered_converter(StandIn, "NbcloudStandIn", shape, convert)
    return StandIn


def cut(
    made: Any, counted: Mapping[str, Any], inputs: tuple[Tensor, ...], precision: str
) -> tuple[tuple[Tensor, ...], list[dict[str, Any]]]:
    """Let the graph begin behind the steps that count words.

    Returns
    -------
    inputs : tuple of Tensor
        What the graph takes now.
    steps : list of dict
        What is done before, as `nbcloud.models.steps` does it.
    """
    nodes = [node for node in made.graph.node if node.domain == _DOMAIN]
    if not nodes:
        return inputs, []
    makers = {name: node for node in made.graph.node for name in node.output}
    sources = [_source(node, makers, inputs) for node in nodes]
    for node in nodes:
        made.graph.node.remove(node)
    _drop_unused(made)
    still = {name for node in made.graph.node for name in node.input}
    tensors, steps = [each for each in inputs if each.name in still], []
    for number, (node, source) in enumerate(zip(nodes, sources, strict=True)):
        place = next(each.s.decode() for each in node.attribute if each.name == _PLACE)
        alone = sources.count(source) == 1 and source.name not in still
        gives = source.name if alone else f"{source.name}_counted{number or ''}"
        for other in made.graph.node:
            for at, name in enumerate(other.input):
                if name == node.output[0]:
                    other.input[at] = gives
        for output in made.graph.output:
            if output.name == node.output[0]:
                _hand_on(made, gives, output.name)
        told = step(counted[place], source, gives, precision)
        steps.append({**told, "keeps": True} if source.name in still else told)
        tensors.append(Tensor(gives, precision, ("batch", len(told["vocabulary"]))))
    _set_inputs(made, tensors)
    for opset in [each for each in made.opset_import if each.domain == _DOMAIN]:
        made.opset_import.remove(opset)
    return tuple(tensors), steps


def _source(node: Any, makers: Mapping[str, Any], inputs: tuple[Tensor, ...]) -> Tensor:
    """The input whose texts a step counts."""
    name = node.input[0]
    while name in makers and makers[name].op_type in _PASSES:
        name = makers[name].input[0]
    found = next((each for each in inputs if each.name == name), None)
    if found is None or found.dtype != TEXT or found.shape[1:] not in ((), (1,)):
        raise ExportError(
            "The step that counts words does not stand at the model's beginning, with a column of its own.",
            "Give the texts as a column of a DataFrame, or as a list, and train on that.",
        )
    return found


def _drop_unused(made: Any) -> None:
    """Remove nodes whose results nobody takes any more."""
    wanted = {output.name for output in made.graph.output}
    while True:
        used = wanted | {name for node in made.graph.node for name in node.input}
        unused = [node for node in made.graph.node if not used & set(node.output)]
        if not unused:
            return
        for node in unused:
            made.graph.node.remove(node)


def _hand_on(made: Any, source: str, target: str) -> None:
    import onnx

    made.graph.node.append(onnx.helper.make_node("Identity", [source], [target]))


def _set_inputs(made: Any, tensors: list[Tensor]) -> None:
    import onnx

    kept = {each.name: each for each in made.graph.input}
    kinds = {"float32": onnx.TensorProto.FLOAT, "float64": onnx.TensorProto.DOUBLE}
    new = []
    for each in tensors:
        if each.dtype in kinds and (each.name not in kept or kept[each.name].type.tensor_type.elem_type == 8):
            new.append(onnx.helper.make_tensor_value_info(each.name, kinds[each.dtype], list(each.shape)))
        else:
            new.append(kept[each.name])
    del made.graph.input[:]
    made.graph.input.extend(new)


def step(part: Any, takes: Tensor, gives: str, dtype: str) -> dict[str, Any]:
    """What an estimator does, as `nbcloud.models.words` does it."""
    vocabulary = sorted(part.vocabulary_, key=part.vocabulary_.__getitem__)
    told = {
        "step": COUNT_WORDS,
        "takes": takes.to_json(),
        "gives": gives,
        "dtype": dtype,
        "lowercase": part.lowercase,
        "accents": part.strip_accents,
        "analyzer": part.analyzer,
        "pattern": part.token_pattern if part.analyzer == "word" else None,
        "stop_words": sorted(part.get_stop_words() or ()) if part.analyzer == "word" else None,
        "ngrams": [int(each) for each in part.ngram_range],
        "vocabulary": vocabulary,
        "binary": part.binary,
    }
    if hasattr(part, "sublinear_tf"):
        told["sublinear"] = part.sublinear_tf
        told["norm"] = part.norm
        if part.use_idf:
            told["weights"] = [float(each) for each in part.idf_]
    return {key: value for key, value in told.items() if value not in (None, False, [])}
