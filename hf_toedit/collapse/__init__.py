"""How much synthetic data is safe: what happens when models are trained on what earlier models wrote.

    from hf_toedit.collapse import Accumulate, Gaussian, Replace, simulate

    for workflow in (Replace(), Accumulate()):
        print(simulate(Gaussian(dimensions=10), workflow, n=100, generations=50).table())

The loop: `setting` (what a setting is: data to sample, a model to fit, measures of how far it has drifted), `workflows`
(what each generation trains on; they know no setting), `generations` (one after another), `simulation` (many runs of a
workflow in a setting, and their table), `sweeps` (many simulations), `cardinalities` (what synthetic rows are worth, by
the number of real ones), `processes` (workers), `plots`, `extra` (optional packages).

The settings, with their closed forms: `gaussian` and `gaussian_theory`, `kernel_density`, `regression` and
`regression_theory`, `categorical` and `next_token` with `categorical_theory` (Seddik et al.) and `sum_squares` (every
workflow, exactly). `safe_amount` answers how many synthetic rows may be added.

Real data: `mixing` (workflows as functions on datasets), `language_model` (the setting) and `language_model_runs` (each
generation a folder), `supervised` (prompts and completions), `vllm_sampling` (what models write, with vLLM).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cardinalities import cardinality as cardinality
    from .categorical import Categorical as Categorical
    from .categorical import collapse_time as collapse_time
    from .categorical_theory import added_variance as added_variance
    from .categorical_theory import collapse_probability_bounds as collapse_probability_bounds
    from .categorical_theory import collapse_time_bounds as collapse_time_bounds
    from .categorical_theory import collapse_time_exact as collapse_time_exact
    from .categorical_theory import collapse_time_limit as collapse_time_limit
    from .categorical_theory import deviation_bound as deviation_bound
    from .categorical_theory import deviation_limit as deviation_limit
    from .categorical_theory import first_deviation as first_deviation
    from .categorical_theory import guaranteed_amount as guaranteed_amount
    from .categorical_theory import guaranteed_deviation as guaranteed_deviation
    from .categorical_theory import largest_safe_amount as largest_safe_amount
    from .categorical_theory import real_rows_for_rule as real_rows_for_rule
    from .categorical_theory import sum_squares_partly_synthetic as sum_squares_partly_synthetic
    from .categorical_theory import sum_squares_partly_synthetic_as_printed as sum_squares_partly_synthetic_as_printed
    from .categorical_theory import sum_squares_partly_synthetic_limit as sum_squares_partly_synthetic_limit
    from .categorical_theory import sum_squares_replace as sum_squares_replace
    from .gaussian import Gaussian as Gaussian
    from .gaussian_theory import accumulate_determinant as accumulate_determinant
    from .gaussian_theory import accumulate_variance as accumulate_variance
    from .gaussian_theory import accumulate_variance_limit as accumulate_variance_limit
    from .gaussian_theory import disjoint_moments as disjoint_moments
    from .gaussian_theory import overlapping_moments as overlapping_moments
    from .gaussian_theory import pooled_moments as pooled_moments
    from .gaussian_theory import replace_determinant as replace_determinant
    from .gaussian_theory import replace_variance as replace_variance
    from .gaussian_theory import subsample_variance as subsample_variance
    from .gaussian_theory import subsample_variance_limit as subsample_variance_limit
    from .gaussian_theory import toedit_variance as toedit_variance
    from .kernel_density import KernelDensity as KernelDensity
    from .kernel_density import kernel_variance as kernel_variance
    from .kernel_density import replace_kernel_variance as replace_kernel_variance
    from .language_model import LanguageModel as LanguageModel
    from .language_model_runs import train_generations as train_generations
    from .language_model_runs import train_runs as train_runs
    from .mixing import accumulate as accumulate
    from .mixing import accumulate_subsample as accumulate_subsample
    from .mixing import mixture as mixture
    from .mixing import replace as replace
    from .mixing import toedit as toedit
    from .next_token import NextToken as NextToken
    from .plots import plot as plot
    from .regression import LinearRegression as LinearRegression
    from .regression_theory import ACCUMULATE_LIMIT as ACCUMULATE_LIMIT
    from .regression_theory import BOUND_AS_PRINTED as BOUND_AS_PRINTED
    from .regression_theory import BOUND_FAILS_AT as BOUND_FAILS_AT
    from .regression_theory import SUBSAMPLE_LIMIT as SUBSAMPLE_LIMIT
    from .regression_theory import accumulate_inflation as accumulate_inflation
    from .regression_theory import decay_bound_as_printed as decay_bound_as_printed
    from .regression_theory import disjoint_inflation as disjoint_inflation
    from .regression_theory import disjoint_limit as disjoint_limit
    from .regression_theory import growing_replace_inflation as growing_replace_inflation
    from .regression_theory import least_squares_error as least_squares_error
    from .regression_theory import many_small_edits_inflation as many_small_edits_inflation
    from .regression_theory import mixture_inflation as mixture_inflation
    from .regression_theory import one_edit_inflation as one_edit_inflation
    from .regression_theory import overlapping_inflation as overlapping_inflation
    from .regression_theory import overlapping_limit as overlapping_limit
    from .regression_theory import replace_inflation as replace_inflation
    from .regression_theory import slope_in_order as slope_in_order
    from .regression_theory import subsample_inflation as subsample_inflation
    from .regression_theory import toedit_inflation_as_printed as toedit_inflation_as_printed
    from .regression_theory import workflow_inflation as workflow_inflation
    from .safe_amount import Budget as Budget
    from .safe_amount import budget as budget
    from .setting import CountSetting as CountSetting
    from .setting import RowSetting as RowSetting
    from .setting import Setting as Setting
    from .simulation import Simulation as Simulation
    from .simulation import simulate as simulate
    from .simulation import table_of as table_of
    from .sum_squares import expected_sum_squares as expected_sum_squares
    from .sum_squares import sum_squares_accumulate as sum_squares_accumulate
    from .sweeps import sweep as sweep
    from .workflows import Accumulate as Accumulate
    from .workflows import AccumulateSubsample as AccumulateSubsample
    from .workflows import GrowingReplace as GrowingReplace
    from .workflows import Mixture as Mixture
    from .workflows import RecentModels as RecentModels
    from .workflows import Replace as Replace
    from .workflows import ToEdit as ToEdit
    from .workflows import Workflow as Workflow

_HOME = {
    "ACCUMULATE_LIMIT": "regression_theory",
    "Accumulate": "workflows",
    "AccumulateSubsample": "workflows",
    "BOUND_AS_PRINTED": "regression_theory",
    "BOUND_FAILS_AT": "regression_theory",
    "Budget": "safe_amount",
    "Categorical": "categorical",
    "CountSetting": "setting",
    "Gaussian": "gaussian",
    "GrowingReplace": "workflows",
    "KernelDensity": "kernel_density",
    "LanguageModel": "language_model",
    "LinearRegression": "regression",
    "Mixture": "workflows",
    "NextToken": "next_token",
    "RecentModels": "workflows",
    "Replace": "workflows",
    "RowSetting": "setting",
    "SUBSAMPLE_LIMIT": "regression_theory",
    "Setting": "setting",
    "Simulation": "simulation",
    "ToEdit": "workflows",
    "Workflow": "workflows",
    "accumulate": "mixing",
    "accumulate_determinant": "gaussian_theory",
    "accumulate_inflation": "regression_theory",
    "accumulate_subsample": "mixing",
    "accumulate_variance": "gaussian_theory",
    "accumulate_variance_limit": "gaussian_theory",
    "added_variance": "categorical_theory",
    "budget": "safe_amount",
    "cardinality": "cardinalities",
    "collapse_probability_bounds": "categorical_theory",
    "collapse_time": "categorical",
    "collapse_time_bounds": "categorical_theory",
    "collapse_time_exact": "categorical_theory",
    "collapse_time_limit": "categorical_theory",
    "decay_bound_as_printed": "regression_theory",
    "deviation_bound": "categorical_theory",
    "deviation_limit": "categorical_theory",
    "disjoint_inflation": "regression_theory",
    "disjoint_limit": "regression_theory",
    "disjoint_moments": "gaussian_theory",
    "expected_sum_squares": "sum_squares",
    "first_deviation": "categorical_theory",
    "growing_replace_inflation": "regression_theory",
    "guaranteed_amount": "categorical_theory",
    "guaranteed_deviation": "categorical_theory",
    "kernel_variance": "kernel_density",
    "largest_safe_amount": "categorical_theory",
    "least_squares_error": "regression_theory",
    "many_small_edits_inflation": "regression_theory",
    "mixture": "mixing",
    "mixture_inflation": "regression_theory",
    "one_edit_inflation": "regression_theory",
    "overlapping_inflation": "regression_theory",
    "overlapping_limit": "regression_theory",
    "overlapping_moments": "gaussian_theory",
    "plot": "plots",
    "pooled_moments": "gaussian_theory",
    "real_rows_for_rule": "categorical_theory",
    "replace": "mixing",
    "replace_determinant": "gaussian_theory",
    "replace_inflation": "regression_theory",
    "replace_kernel_variance": "kernel_density",
    "replace_variance": "gaussian_theory",
    "simulate": "simulation",
    "slope_in_order": "regression_theory",
    "subsample_inflation": "regression_theory",
    "subsample_variance": "gaussian_theory",
    "subsample_variance_limit": "gaussian_theory",
    "sum_squares_accumulate": "sum_squares",
    "sum_squares_partly_synthetic": "categorical_theory",
    "sum_squares_partly_synthetic_as_printed": "categorical_theory",
    "sum_squares_partly_synthetic_limit": "categorical_theory",
    "sum_squares_replace": "categorical_theory",
    "sweep": "sweeps",
    "table_of": "simulation",
    "toedit": "mixing",
    "toedit_inflation_as_printed": "regression_theory",
    "toedit_variance": "gaussian_theory",
    "train_generations": "language_model_runs",
    "train_runs": "language_model_runs",
    "workflow_inflation": "regression_theory",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
