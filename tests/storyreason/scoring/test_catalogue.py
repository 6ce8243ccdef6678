"""The catalogue: every score is declared once, is counted, and every name in code and docs exists."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from storyreason.format.rules import RULES
from storyreason.scoring import Reference, catalogue, score
from storyreason.scoring.catalogue import GUARDED, HEADLINES, MAIN, SCORES
from storyreason.scoring.charts import CHARTS
from storyreason.scoring.config import GateConfig

ROOT = Path(__file__).parents[3]


@pytest.mark.server
def test_every_column_of_a_formula_is_counted() -> None:
    card = score([Reference("a-1", ((100, 100),), "", "")], {}, ("strict", "paper"), meteor=True)

    assert {column for one in SCORES.values() for column in one.formula.columns} <= set(card.columns)


def test_each_rule_is_a_score() -> None:
    rules = [name.rpartition("/")[2] for name in SCORES if name.startswith("strict/validity/rule_pass_rate/")]

    assert rules == list(RULES)


def test_headlines_are_main_scores_in_the_order_of_a_report() -> None:
    assert [one.title for one in HEADLINES] == [
        "valid answers", "box F1", "box precision", "box recall", "identity IDF1",
    ]  # fmt: skip
    assert set(HEADLINES) < set(MAIN)


def test_a_guard_is_a_tolerance_of_the_gate_for_a_score_with_a_direction() -> None:
    assert {one.name: one.guard for one in GUARDED} == {
        "strict/validity/valid": "validity_tolerance",
        "strict/identity/idf1": "idf1_tolerance",
        "strict/references/hallucinations_per_100_mentions": "hallucinations_tolerance",
    }
    for one in GUARDED:
        assert one.guard in GateConfig.model_fields
        assert one.better


def test_the_default_primary_is_a_score_where_higher_is_better() -> None:
    GateConfig(primary=GateConfig().primary)


def test_charts_show_every_bar_once() -> None:
    bars = [one.bar for one in SCORES.values() if one.bar]

    assert {chart for chart, _ in bars} == set(CHARTS)
    assert len(bars) == len(set(bars))


@pytest.mark.parametrize("room", ["storyreason", "tasks", "flows", "docs", "benchmarks", "README.md", "deploy/presets"])
def test_score_names_in_code_and_docs_exist(room: str) -> None:
    path = ROOT / room
    files = (
        [path]
        if path.is_file()
        else [file for ending in ("py", "js", "md", "yaml") for file in path.rglob(f"*.{ending}")]
    )
    written = re.compile(r"""["'`](?:(?:free|grounded)/)?((?:strict/\w+|paper)/[\w./-]+)["'`]""")
    columns = {column for one in SCORES.values() for column in one.formula.columns}
    found = {name for file in files for name in written.findall(file.read_text())}

    assert found - SCORES.keys() - columns == set()


def test_a_wrong_name_leads_to_the_nearest_right_one() -> None:
    assert catalogue.nearest("strict/grounding/f2") == "strict/grounding/f1"
    assert catalogue.nearest("paper/ROUGE_L") == "paper/ROUGE-L"
    assert catalogue.nearest("grounding/f1") == "strict/grounding/f1"
    assert catalogue.nearest("f1") == "strict/grounding/f1"
    assert catalogue.nearest("quite something else") is None


def test_values_are_written_with_the_decimals_of_their_score() -> None:
    assert SCORES["strict/grounding/f1"].text(0.5) == "0.500"
    assert SCORES["strict/grounding/f1"].text(-0.0, signed=True) == "+0.000"
    assert SCORES["strict/language/words"].text(431.256) == "431.26"


def test_the_reference_has_a_row_for_each_score() -> None:
    text = catalogue.markdown()
    rows = [line for line in text.splitlines() if line.startswith("| `")]

    assert [row.split("`")[1] for row in rows] == list(SCORES)
    assert all(row.count(" | ") == 5 for row in rows)
    assert (
        "| `strict/references/hallucinations_per_100_mentions` | hallucinations per 100 mentions | lower | "
        "The sum of unknown, absent, phantom, no_actor. | 100 references/hallucinations / references/mentions | ours |"
    ) in rows


def test_a_configuration_is_checked_without_numpy() -> None:
    code = (
        "import sys; from storyreason.scoring.config import GateConfig; "
        "GateConfig(primary='free/strict/identity/idf1'); print('numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
