"""The table of decoders, from records written by hand."""

from quicksilver.experiments.presets.rows import decoder_tables
from quicksilver.experiments.study.rows import rows
from tests.experiments.test_analysis import record, reference


def test_a_cell_is_the_fastest_setting_that_is_as_good_as_autoregression() -> None:
    table = rows([
        reference(0.9), reference(0.9, task="lines"),
        record("diffusion", 0.5, 8.0, order="llada", steps=1), record("diffusion", 0.91, 4.0, order="llada", steps=2),
        record("diffusion", 0.95, 2.0, order="llada", steps=4),
        record("diffusion", 0.8, 3.0, order="klass", steps=None),
        record("diffusion", 0.9, 0.5, order="llada", steps=1, task="lines")])
    (found,) = decoder_tables(table)
    assert list(found.tasks) == ["lines", "sums"]
    assert [row.share for row in found.references] == [0.9, 0.9]
    texts = {name: [None if cell is None else cell.text for cell in cells] for name, cells in found.cells.items()}
    assert texts == {"llada": ["0.50x; 90.0 %, 1 step", "4.00x; 91.0 %, 2 steps"],
                     "klass": [None, "none; best 80.0 %, 3.00x"]}


def test_batch_sizes_have_their_own_tables_and_free_text_none() -> None:
    text = {"valid": 1.0, "unique": 1.0, "novel": 0.5, "valid_unique_novel": 0.5}
    table = rows([reference(0.9), reference(0.9, batch_size=16), record("diffusion", 0.9, 2.0, batch_size=16),
                  reference(0.9, task="prose", text=text), record("diffusion", 0.9, 2.0, task="prose", text=text)])
    assert [(found.batch_size, list(found.tasks)) for found in decoder_tables(table)] == [(1, ["sums"]), (16, ["sums"])]


def test_a_reference_that_solves_next_to_nothing_gives_no_speed_up() -> None:
    (found,) = decoder_tables(rows([reference(0.01), record("diffusion", 0.5, 8.0)]))
    (cell,) = found.cells["confident"]
    assert cell is not None
    assert cell.text == "no reference; best 50.0 %, 4 steps, 8.00x"
