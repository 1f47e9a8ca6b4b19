"""Whether an ONNX model answers as the framework's: on the samples, and on what the export did not see."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from nbcloud.errors import SchemaError, VerificationError
from nbcloud.models import onnxfile, steps
from nbcloud.models.exportable import Conversion, Exportable
from nbcloud.models.signature import Feeds
from nbcloud.models.verify.cases import FAR, NAN, Case, cases, rounded
from nbcloud.models.verify.compare import TOLERANCES, Difference, difference, tied
from nbcloud.models.verify.locate import first_wrong_step

__all__ = ["Report", "verify"]

Progress = Callable[[str], None]
_UNSTEADY = 10.0
_UNSTEADY_FAR = 1e6
"""Units of the tolerance up to which a difference can be what rounding makes of it; with large values, which
a deep network makes 0 or 1 by chance: up to another answer altogether, in double precision."""
_ROUNDING = 8.0
"""How much more another order of additions moves an answer than the last digit of the inputs does."""
_LOWEST = ("float64", "float32", "float16", "bfloat16")


@dataclass
class Report:
    """How a verification went.

    Parameters
    ----------
    precision : str
        The least precise type inside of the model; its tolerance held.
    compared : dict
        For each case the largest difference of each output, in units of the tolerance.
    skipped : dict
        Cases that the framework's model itself refuses, with what it says.
    unsteady : dict
        For each case the differences above the tolerance where the framework's own answers move as far when
        only the last digit of the input changes: nothing more precise can be asked of any computer. Never on
        the sample itself.
    finite_only : bool
        Whether the model refuses NaN, or the ONNX model answers it otherwise: then it has to be refused.
    """

    precision: str
    tolerance: float
    compared: dict[str, dict[str, float]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    ties: int = 0
    unsteady: dict[str, dict[str, float]] = field(default_factory=dict)
    finite_only: bool = False

    @property
    def worst(self) -> float:
        """The largest difference of all, in units of the tolerance."""
        return max((amount for each in self.compared.values() for amount in each.values()), default=0.0)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "worst": self.worst}


def verify(
    conversion: Conversion, model: Exportable, *, evidence: Path, progress: Progress = lambda _: None
) -> Report:
    """Compare both models on every case.

    Parameters
    ----------
    evidence : Path
        A folder for inputs and both answers of the first case that differs.

    Raises
    ------
    VerificationError
        Names the case, the output, the place, and where it could be found the first node that differs.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it says is told once, by the error
    try:
        session = onnxruntime.InferenceSession(
            str(conversion.path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise VerificationError(
            f"onnxruntime can't load the ONNX model: {str(error).splitlines()[0][:300]}",
            "Export with another exporter=, or use other layers there.",
        ) from error
    report = Report(precision := conversion.precision or _precision(conversion), TOLERANCES[precision])
    shapes = {each.name: each.shape for each in conversion.inputs}
    inputs = tuple(replace(each, shape=shapes.get(each.name, each.shape)) for each in model.inputs)
    for case in cases(inputs, model.feeds):
        progress(f"comparing: {case.name}")
        try:
            expected = model.predict(case.feeds)
        except Exception as error:
            if case.is_sample:
                raise VerificationError(
                    f"The model itself refuses the sample: {_short(error)}.",
                    "Give a sample as the model takes it.",
                ) from error
            report.skipped[case.name] = _short(error)
            report.finite_only = report.finite_only or case.name == NAN
            continue
        wrong, found = _compare(session, conversion, model, case, expected, report)
        if wrong is None:
            continue
        if case.name == NAN and not _has_nan(model.feeds):
            report.finite_only = True
            continue
        _keep(evidence, case, found, expected, wrong)
        step = first_wrong_step(conversion, model, case.feeds, precision)
        where = f" The first step that differs is {step}." if step else ""
        where += f" {conversion.doubt}" if conversion.doubt else ""
        raise VerificationError(
            f"The ONNX model does not answer as the model does, on {case.name!r}: {wrong}.{where}",
            f"Inputs and both answers are in {evidence}.",
            case=case.name,
            output=wrong.output,
            evidence=str(evidence),
            step=step,
        )
    return report


def _compare(
    session: Any, conversion: Conversion, model: Exportable, case: Case, expected: Feeds, report: Report
) -> tuple[Difference | None, Feeds]:
    """The difference that is too large, if there is one, and what the ONNX model answered."""
    try:
        given = steps.apply(conversion.preprocessing, case.feeds)
        feeds = {each.name: each.accept(given[each.name]) for each in conversion.inputs}
        names = [each.name for each in conversion.outputs]
        found = dict(zip(names, session.run(names, feeds), strict=True))
    except SchemaError as error:
        return Difference("", np.inf, f"it takes no such input: {error.message}"), {}
    except Exception as error:  # noqa: BLE001 - onnxruntime has many, of no common kind
        return Difference("", np.inf, f"onnxruntime says: {str(error).splitlines()[0][:300]}"), {}
    missing = found.keys() ^ expected.keys()
    if missing:
        return Difference(sorted(missing)[0], np.inf, "only one of the two models has this output"), found
    amounts = {}
    for name, value in found.items():
        differs = difference(name, value, expected[name], report.precision)
        if differs.amount > 1 and not case.is_sample and _are_ties(value, name, conversion, expected, report):
            report.ties += 1
            continue
        if differs.amount > 1 and _are_chance(value, name, model, case, expected, report):
            report.ties += 1
            continue
        if differs.amount > 1 and _is_rounding(differs, model, case, expected, report):
            report.unsteady.setdefault(case.name, {})[name] = round(differs.amount, 6)
            continue
        if differs.amount > 1:
            return differs, found
        amounts[name] = round(differs.amount, 6)
    report.compared[case.name] = amounts
    return None, found


def _is_rounding(differs: Difference, model: Exportable, case: Case, expected: Feeds, report: Report) -> bool:
    """Whether the framework's own answer moves as far when only the last digit of the input changes."""
    if case.is_sample or differs.amount > (_UNSTEADY_FAR if case.name == FAR else _UNSTEADY):
        return False
    name = differs.output
    moved = (
        difference(name, model.predict(feeds)[name], expected[name], report.precision).amount
        for feeds in rounded(model.inputs, case.feeds, report.precision)
    )
    return any(np.isfinite(amount) and differs.amount <= _ROUNDING * amount for amount in moved)


def _are_chance(
    found: Any, name: str, model: Exportable, case: Case, expected: Feeds, report: Report
) -> bool:
    """Whether whole numbers differ only where the framework's own change with the last digit of the input.

    As the places of the largest do where several are.
    """
    found, wanted = np.asarray(found), np.asarray(expected[name])
    kinds = {found.dtype.kind, wanted.dtype.kind}
    if case.is_sample or not kinds <= {"b", "i", "u"} or found.shape != wanted.shape:
        return False
    steady = np.ones(wanted.shape, bool)
    for feeds in rounded(model.inputs, case.feeds, report.precision):
        steady &= model.predict(feeds)[name] == wanted
        if not np.any(steady & (found != wanted)):
            return True
    return False


def _are_ties(found: Any, name: str, conversion: Conversion, expected: Feeds, report: Report) -> bool:
    """Whether classes differ only in rows where the model itself can hardly decide."""
    told = conversion.scores.get(name, name)
    labels = np.asarray(expected[name])
    if told == name or told not in expected or labels.ndim != 1:
        return False
    found = np.ravel(found)
    if found.dtype.kind in "biu" and labels.dtype.kind in "biu":  # True is 1
        return bool(np.all(tied(expected[told], report.precision)[found != labels]))
    unlike = np.array([str(a) != str(b) for a, b in zip(found, labels, strict=True)])
    return bool(np.all(tied(expected[told], report.precision)[unlike]))


def _precision(conversion: Conversion) -> str:
    """The least precise type of fractions inside of the model."""
    import onnx

    model = onnxfile.load(conversion.path, weights=False)
    names = {onnx.TensorProto.DataType.Name(each.data_type).lower() for each in model.graph.initializer}
    names |= {each.dtype for each in (*conversion.inputs, *conversion.outputs)}
    names = {"float32" if name == "float" else "float64" if name == "double" else name for name in names}
    # Operators of ai.onnx.ml keep their numbers in attributes, in single precision.
    if any(opset.domain == "ai.onnx.ml" for opset in model.opset_import):
        names.add("float32")
    return max((name for name in names if name in _LOWEST), key=_LOWEST.index, default="float32")


def _short(error: Exception) -> str:
    """An error in one line, without colours."""
    line = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())
    return f"{type(error).__name__}: {line[:300].rstrip('.')}"


def _has_nan(feeds: Feeds) -> bool:
    return any(value.dtype.kind == "f" and bool(np.isnan(value).any()) for value in feeds.values())


def _keep(evidence: Path, case: Case, found: Feeds, expected: Feeds, wrong: Difference) -> None:
    """Leave what proves it; texts as lists, since nothing may be pickled."""
    evidence.mkdir(parents=True, exist_ok=True)
    for name, arrays in (("inputs", case.feeds), ("onnx", found), ("framework", expected)):
        plain = {key: np.asarray(value) for key, value in arrays.items()}
        numbers = {key: value for key, value in plain.items() if value.dtype.kind in "fiub"}
        np.savez(evidence / f"{name}.npz", **{key.replace("/", "_"): value for key, value in numbers.items()})
        texts = {key: value.tolist() for key, value in plain.items() if key not in numbers}
        if texts:
            (evidence / f"{name}.json").write_text(json.dumps(texts, ensure_ascii=False, default=str))
    told = {"case": case.name, "output": wrong.output, "difference": wrong.text}
    (evidence / "difference.json").write_text(json.dumps(told, ensure_ascii=False, indent=1))
