"""What all modules share: their settings, what they tell `evaluate` about themselves, and how they compute."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import evaluate

from ...errors import ConfigError, nearest

INPUTS = {
    "predictions": "the texts to measure",
    "references": "as many texts to compare them with; fill the shorter side up with empty texts, which are skipped",
    "toedit": "the `toedit` structs of the rows that the texts are from",
}


class Module(evaluate.Measurement):  # type: ignore[misc] # evaluate has no types
    """A measurement as a module of evaluate. Its settings are given to `evaluate.load`, to `compute`, or both.

    measured: the class or function of `hf_toedit.measure` that does the work; its arguments are the settings.
    described: what has the description, if that is a method of `measured`.
    inputs: the columns that it takes.
    citation_of, url: the paper that defines it.
    """

    measured: ClassVar[Callable[..., Any]]
    described: ClassVar[Callable[..., Any] | None] = None
    inputs: ClassVar[Sequence[str]] = ("predictions",)
    citation_of: ClassVar[str] = ""
    url: ClassVar[str] = ""

    def __init__(self, *args: Any, **given: Any) -> None:
        theirs = inspect.signature(evaluate.EvaluationModule).parameters
        ours = self.settings_known()
        super().__init__(*args, **{name: value for name, value in given.items() if name in theirs})
        self.settings = self._checked({name: given[name] for name in given if name in ours or name not in theirs})

    @classmethod
    def settings_known(cls) -> dict[str, Any]:
        """The names of the settings, with their defaults."""
        parameters = inspect.signature(cls.measured).parameters.values()
        known = {one.name: one.default for one in parameters if one.kind is not one.VAR_KEYWORD}
        if getattr(cls.measured, "needs", "") == "logprobs":
            known["prior"] = inspect.Parameter.empty
        return {name: default for name, default in known.items() if name not in ("data", "references")}

    def _checked(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        known = self.settings_known()
        for name in settings:
            if name not in known:
                raise ConfigError(f"unknown setting {name!r}{nearest(name, known) if known else ': it has none'}")
        return dict(settings)

    def _info(self) -> Any:
        return evaluate.MeasurementInfo(
            description=inspect.getdoc(self.described or self.measured) or "",
            citation=self.citation_of,
            inputs_description=self._inputs_description(),
            features=self._features(),
            reference_urls=[self.url] if self.url else [],
            license="Apache-2.0",
        )

    def _features(self) -> Any:
        from datasets import Features, Value

        return Features({name: Value("string") for name in self.inputs})

    def _inputs_description(self) -> str:
        lines = [f"    {name}: {INPUTS[name]}." for name in self.inputs]
        for name, default in self.settings_known().items():
            said = "required" if default is inspect.Parameter.empty else f"{default!r} by default"
            lines.append(f"    {name}: a setting, {said}; see the description.")
        where = f"hf_toedit.measure.{(self.described or self.measured).__qualname__}"
        return (
            "\nArgs:\n" + "\n".join(lines) + "\n"
            "\nSettings can be given to `evaluate.load` or to `compute`.\n"
            f"\nReturns:\n    The figures of `{where}`, as a dict.\n"
            f"\nevaluate hands over all rows at once, in memory. For more rows than fit, use `{where}`.\n"
        )

    def compute(self, **given: Any) -> dict[str, Any] | None:
        """As in evaluate, with a clear error if one of several columns is missing."""
        missing = [name for name in self.inputs if given.get(name) is None]
        if 0 < len(missing) < len(self.inputs):
            needed = " and ".join(f"{name}=" for name in self.inputs)
            raise ConfigError(f"{self.name} needs {needed}: {missing[0]}= is missing")
        result: dict[str, Any] | None = super().compute(**given)
        return result

    def _compute(self, **given: Any) -> dict[str, Any]:
        columns = {name: given[name] for name in self.inputs}
        # evaluate.combine gives each module the columns of all.
        more = self._checked({name: value for name, value in given.items() if name not in INPUTS})
        settings = {**self.settings, **more}
        for name, default in self.settings_known().items():
            if default is inspect.Parameter.empty and name not in settings:
                raise ConfigError(f"{self.name} needs {name}=: give it to compute or to evaluate.load, {name}='demo'")
        return self.figures(columns, settings)

    def figures(self, columns: Mapping[str, Sequence[Any]], settings: Mapping[str, Any]) -> dict[str, Any]:
        """What `hf_toedit.measure` says of the columns."""
        if not isinstance(self.measured, type):
            figures: dict[str, Any] = self.measured(*columns.values(), **settings)
            return figures
        options = {name: value for name, value in settings.items() if name == "prior"}
        measurement = self.measured(**{name: value for name, value in settings.items() if name != "prior"})
        result: dict[str, Any] = measurement.update(columns["predictions"], **options).result()
        return result
