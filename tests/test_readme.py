"""The README is short, what it names is there, and its numbers are those of the records in results/."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from quicksilver.experiments.expert_union.rows import union_rows
from quicksilver.experiments.frontier.speed_ups import speed_ups
from quicksilver.experiments.presets.rows import decoder_tables
from quicksilver.experiments.study.rows import Row, rows

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
RESULTS = (ROOT / "results" / "README.md").read_text()
SAID, SAID_OF_RESULTS = (" ".join(page.split()) for page in (README, RESULTS))
"""The pages on one line."""
TASKS = {"4x4 Sudoku": "sudoku4", "6x6 Sudoku": "sudoku6", "extraction": "extraction", "8-digit addition": "addition"}


def records(study: str, kind: str) -> list[dict[str, Any]]:
    """The study's records of a kind of points."""
    found = [json.loads(path.read_text()) for path in sorted((ROOT / "results" / study / "records").glob("*.json"))]
    return [record for record in found if record["point"]["kind"] == kind]


def shown(row: Row | None) -> str:
    """A setting as the README's table names it."""
    assert row is not None
    steps = "one step" if row.steps == 1 else f"{row.steps} steps"
    return row.order if row.steps is None else steps


def speeds(text: str) -> list[str]:
    return re.findall(r"([\d.]+)x", text)


def percent(row: Row | None) -> str:
    assert row is not None
    return f"{100 * row.share:.0f} % right"


@pytest.fixture(scope="module")
def default() -> list[Row]:
    return rows(records("default", "DecodePoint"))


def test_it_is_at_most_120_lines() -> None:
    assert len(README.splitlines()) <= 120


@pytest.mark.parametrize("title", TASKS)
def test_a_line_of_its_table_is_what_the_records_give(title: str, default: Sequence[Row]) -> None:
    (line,) = (line.split(" | ") for line in README.splitlines() if line.startswith(f"| {title} | "))
    _, reference, equal, best = line
    (found,) = (found for found in speed_ups(default) if found.task == TASKS[title])
    small, large = (found.cells[size] for size in (1, 16))
    assert reference == percent(large.reference)
    if small.fastest is None:
        assert large.fastest is None
        assert equal == "**loses**: none comes near"
        assert best == f"{percent(large.highest)} |"
        return
    assert large.fastest is not None
    assert speeds(equal) == [f"{cell.fastest.speed_up:.1f}" for cell in (small, large) if cell.fastest]
    assert re.findall(r"\((.*?)\)", equal) == list(dict.fromkeys([shown(small.fastest), shown(large.fastest)]))
    if not found.has_better:
        assert best == "the same |"
        return
    assert percent(small.best) == percent(large.best) == best.partition(":")[0]
    assert speeds(best) == [f"{cell.best.speed_up:.1f}" for cell in (small, large) if cell.best]


def test_it_says_what_the_table_was_measured_on() -> None:
    models = records("default", "TrainingPoint")
    said_commits = re.findall(r"\b[0-9a-f]{10}\b", SAID)
    for record in (*models, *records("default", "DecodePoint")):
        origin = record["provenance"]
        assert not origin["dirty"]
        assert (f"decoded in float32, {origin['machine']['cores']} cores of an {origin['machine']['cpu']}, PyTorch "
                f"{origin['versions']['torch'].removesuffix('.0+cpu')}; [records](results/default/records), ") in SAID
        assert origin["commit"][:10] in said_commits
    for model in models:
        assert (f"({model['result']['parameters'] / 1e6:.1f}M-parameter pairs trained in "
                f"{model['point']['recipe']['precision']},") in SAID
    assert {model["point"]["seed"] for model in models} == {0, 1, 2}
    assert "Three seeds (" in SAID


def test_the_order_of_commits_matters_as_much_as_it_says(default: Sequence[Row]) -> None:
    confident, at_random = (percent(row).removesuffix(" right") for order in ("confident", "random") for row in default
                            if (row.task, row.batch_size, row.order, row.steps) == ("sudoku6", 64, order, 22))
    assert f"22 steps on 6x6 solve {confident} in confident order and {at_random} in random order" in SAID


def test_it_counts_the_presets() -> None:
    names = {path.stem for path in (ROOT / "conf" / "decoder").glob("*.yaml")} - {"parts"}
    assert f"({len(names)} decoder presets," in SAID


def test_what_it_says_of_presets() -> None:
    tables = decoder_tables(rows(records("decoders", "PresetPoint")))
    table = next(table for table in tables if table.batch_size == 1)
    cells = [cell for row in table.cells.values() if (cell := row[table.tasks.index("sudoku6")]) is not None]
    faster = [cell for cell in cells if cell.compared.fastest is not None and cell.shown.speed_up > 1]
    assert f"on 6x6 Sudoku {len(faster)} of {len(cells)} are faster than autoregression at equal quality" in SAID


def test_what_it_says_of_experts() -> None:
    touched = {row.width: row for row in union_rows(records("expert_union", "UnionPoint"))
               if (row.router, row.family, row.state, row.batch_size) == (
                   "softmax, auxiliary loss", "masked diffusion", 1, 1)}
    one, widest = (touched[width].distinct for width in (1, 36))
    assert one is not None
    assert widest is not None
    assert (f"a step of 36 positions touches {widest.mean:.1f} of {touched[36].num_experts} experts, one of 1 position "
            f"{one.mean:.1f}") in SAID


@pytest.mark.parametrize(("title", "peer", "setting"), [
    ("LLaDA's loop", "LLaDA", "times, float32"),
    ("Fast-dLLM (its model), dual cache", "Fast-dLLM, dual", "times, float32"),
    ("Fast-dLLM (its model), prefix cache", "Fast-dLLM, prefix", "times, float32"),
    ("Fast-dLLM (its model), no cache", "Fast-dLLM, no cache", "times, float32"),
    ("transformers 5.24", "transformers", "times, greedy, 20M"),
    ("the same of 0.85M", "transformers", "times, greedy, 0.85M")])
def test_ratios_to_other_code_are_those_of_the_records(title: str, peer: str, setting: str) -> None:
    (line,) = (line for line in RESULTS.splitlines() if line.startswith(f"| {title}"))
    (found,) = (record["result"]["figures"]["engines"] for record in records("peers", "PeerPoint")
                if record["point"]["peer"] == peer and record["point"]["setting"].startswith(setting))
    products = "packed products" if len(found) > 3 else "products by F.linear"
    engines = [*(f"{products}, steps {how}" for how in ("taken", "replayed", "compiled")),
               "products by F.linear, steps taken"]
    assert line.removesuffix(" |").split(" | ")[1:] == [f"{found[name]['ratio']:.2f}" for name in engines]


def test_what_it_says_of_transformers_and_smollm2() -> None:
    agreements = [result for record in records("peers", "PeerPoint") if "num_same" in (result := record["result"])]
    same, decodes = (sum(result[name] for result in agreements) for name in ("num_same", "num_decodes"))
    assert f"the same tokens in {same:,} of {decodes:,} decodes" in SAID
    (answer,) = (record["result"] for record in records("smollm2", "AnswerPoint"))
    assert f"writes {answer['decode_tokens_per_second']:.0f} tokens/s" in SAID
    assert answer["text"] in RESULTS
    assert (f"prompt {answer['num_prompt_tokens']} tokens: {answer['prefill_tokens_per_second']:.1f} tokens/s; answer "
            f"{len(answer['tokens'])} tokens: {answer['decode_tokens_per_second']:.1f} tokens/s") in RESULTS


def engines() -> Any:
    """The comparison of engines with all that the processor has."""
    (found,) = (record for record in records("smollm2", "EnginesPoint")
                if record["provenance"]["torch"]["cpu_capability"] == "AVX512")
    return found["result"]


def test_the_table_of_engines_is_that_of_the_record() -> None:
    def ratio(ours: str, theirs: str, measure: str) -> str:
        (found,) = (pair for pair in engines()["ratios"] if pair["ours"] == ours and pair["measure"] == measure
                    and pair["theirs"].startswith(theirs))
        return f"{found['ratio']:.2f}"

    for name, engine in engines()["engines"].items():
        if name.startswith("ours, "):
            seconds = median(taken["took"]["token"] for taken in engine["rounds"])
            cells = [name.removeprefix("ours, "), f"{1 / seconds:.0f}", ratio(name, "transformers", "token"),
                     ratio(name, "F.linear", "token"), ratio(name, "llama.cpp", "token"),
                     ratio(name, "llama.cpp", "forward")]
            assert f"| {' | '.join(cells)} |" in RESULTS


def test_the_table_of_wider_steps_is_that_of_the_record() -> None:
    (found,) = (record["result"]["steps"] for record in records("smollm2", "WidthPoint"))
    for dtype in ("float32", "bfloat16", "int4"):
        cells = [f"{step['tokens'][0]:.2f}" for step in found if step["dtype"] == dtype and step["positions"] > 1]
        assert f"| {dtype} | {' | '.join(cells)} |" in RESULTS


def test_the_table_of_fewer_bits_is_that_of_the_records() -> None:
    for record in records("smollm2", "QuantizationPoint"):
        found = record["result"]
        cells = [f"{found['logit_distance']:.4f}", f"{found['kl_nats']:.4f}",
                 f"{100 * found['share_of_choices_changed']:.2f} %", f"{100 * found['share_of_answers_changed']:.1f} %"]
        assert re.search(rf"^\| {record['point']['dtype']}[^|]* \| {re.escape(' | '.join(cells))} \|$", RESULTS, re.M)


@pytest.mark.parametrize(("study", "precision"), [("default", "bfloat16"), ("older_cpu", "float32")])
def test_the_training_speeds_are_those_of_the_records(study: str, precision: str) -> None:
    found = [record["result"] for record in records(study, "TrainingPoint")]
    least, most = (round(end(result["tokens"] / result["seconds"] for result in found), -2) for end in (min, max))
    assert re.search(rf"trained at {least:,.0f} to {most:,.0f}(?: tokens/s)? in {precision}", SAID_OF_RESULTS)


def of_the_threshold(study: str) -> dict[tuple[str, int, int], tuple[float, float]]:
    """The predicted and the measured speed-up by task, seed and batch size."""
    def key(point: dict[str, Any]) -> tuple[str, int, int]:
        return point["name"], point["model"]["seed"], point["batch_size"]

    lines = (ROOT / "results" / study / "predictions.jsonl").read_text().splitlines()
    predicted = {key(row["point"]): row["result"]["speed_up"] for row in map(json.loads, lines)}
    measured = {key(record["point"]): record["result"]["speed_up"] for record in records(study, "DecodePoint")
                if record["point"]["order"] == "threshold 0.9" and "speed_up" in record["result"]}
    assert predicted.keys() == measured.keys()
    return {setting: (value, measured[setting]) for setting, value in predicted.items()}


@pytest.mark.parametrize("title", TASKS)
def test_predictions_are_those_of_the_records(title: str) -> None:
    found = of_the_threshold("predictions")
    (line,) = re.findall(rf"^\| {title} \| ([\d.]+ / .*) \|$", RESULTS, re.MULTILINE)
    medians = [tuple(median(found[TASKS[title], seed, size][which] for seed in range(3)) for which in (0, 1))
               for size in (1, 16, 64)]
    assert line.split(" | ") == [f"{predicted:.1f} / {measured:.1f}" for predicted, measured in medians]


def test_it_says_how_far_predictions_were_off() -> None:
    default, larger = of_the_threshold("predictions"), of_the_threshold("predictions_20m")
    factors = [max(a / b, b / a) for a, b in (*default.values(), *larger.values())]
    assert f"All {len(factors)} ({len(default)} by seed and {len(larger)}) are right within a factor of 1.5" in (
        SAID_OF_RESULTS)
    assert f"the worst within {max(factors):.2f}" in SAID_OF_RESULTS
    winners = [(size, predicted > 1, measured > 1) for (_, _, size), (predicted, measured) in default.items()]
    assert [winner for winner in winners if winner[1] != winner[2]] == 4 * [(64, False, True)]
    assert "at batch 64 a loss is predicted and a win measured in 4 of 12" in SAID_OF_RESULTS


def test_every_run_is_listed_with_its_commits() -> None:
    for folder in sorted(path.parent.name for path in (ROOT / "results").glob("*/records")):
        (line,) = (line for line in RESULTS.splitlines() if line.startswith(f"| [{folder}]"))
        for path in (ROOT / "results" / folder / "records").glob("*.json"):
            assert json.loads(path.read_text())["provenance"]["commit"][:10] in line


def test_what_it_names_is_there() -> None:
    verbs = re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"^make (\S+)", README, re.MULTILINE)) <= set(verbs)
    tables = re.findall(r"^\| (?:policy|kernel|task|study)\b.*`tests/.*$", README, re.MULTILINE)
    assert len(tables) == 4
    for path in re.findall(r"`([a-z_/]+/)(?:test_)?x", "\n".join(tables)):
        assert (ROOT / path).is_dir(), path
