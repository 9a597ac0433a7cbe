"""What stands above the figures on MLflow's pages."""

from pathlib import Path

from distillery.evaluate.tables import with_distance
from distillery.params.whole import Params
from distillery.register import descriptions
from distillery.register.gate.verdict import Ruling, Verdict, markdown
from tests.tiny import tiny_params
from tests.unit.register.test_register import LINEAGE, STUDENT, results_of

PARAMS = Params.model_validate(tiny_params())
RESULTS = results_of(Path("root"), PARAMS)

VERDICT = Verdict(
    "7",
    "champion",
    "all rules passed",
    rulings=(Ruling("wer", "torch", -0.01, 0.0, "points", True, "WER 1% against 2%"),),
)


def test_the_result_stands_first_and_lineage_last() -> None:
    result = descriptions.outcome(RESULTS, "conv", 3, VERDICT)
    assert result == (
        "Student `conv` from seed 3, WER 60.0 % (teacher 20.0 %), is version 7 of `tiny`, "
        "**champion**: all rules passed."
    )
    text = descriptions.of_pipeline(result, VERDICT, RESULTS)
    order = [result, "| student conv |", "| wer | torch |", "Made from Git"]
    assert sorted(order, key=text.index) == order
    assert text.startswith(result)


def test_a_model_is_described_by_its_own_figures() -> None:
    text = descriptions.of_model(STUDENT.by_seed[0], RESULTS)
    assert text.startswith(
        "Student `conv` from seed 0: WER 40.0 [30.0, 50.0] %, the teacher's 20.0 %.\n\n"
    )
    assert "| student conv |" in text


def test_an_experiment_is_described_in_a_line_that_leads_to_the_charts() -> None:
    text = descriptions.of_experiment("7", "It went well.", VERDICT, RESULTS)
    first, _, rest = text.partition("\n")
    assert "](#/experiments/7/runs?compareRunsMode=CHART&" in first
    assert first.endswith("the last run's student is version 7, **champion**")
    assert rest.startswith("\nIt went well.\n")
    assert "| student conv |" in rest
    assert "How to read it" in rest


def test_lineage_is_one_line() -> None:
    assert descriptions.lineage(LINEAGE) == (
        "Made from Git `01234567` with changes that were not committed, data `1a2b3c4d`, teacher "
        "`2b3c4d5e`, cache `3c4d5e6f`; the tags hold these whole.\n"
    )
    assert "changes" not in descriptions.lineage({**LINEAGE, "git.dirty": "false"})


def test_the_gates_table_has_no_column_of_sentences() -> None:
    assert markdown(VERDICT) == (
        "Gate: version 7 is champion: all rules passed.\n\n"
        "| rule | format | figure | limit | ruling |\n"
        "| :-- | :-- | --: | --: | :-- |\n"
        "| wer | torch | -1.00 points | +0.00 points | passed |\n"
    )


def test_only_cells_are_set_apart() -> None:
    table = "a | b\n\n| x | y |\n| :-- | --: |\n| 1 | 2 |\n"
    assert with_distance(table) == (
        "a | b\n\n| x | &nbsp;&nbsp;y |\n| :-- | --: |\n| 1 | &nbsp;&nbsp;2 |\n"
    )
