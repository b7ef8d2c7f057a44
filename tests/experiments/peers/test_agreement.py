"""Two runs in turns: each round times both, the first round is warm-up."""

from quicksilver.experiments.peers.agreement import Turns, interleaved


def test_both_run_in_every_round_and_the_first_is_not_counted() -> None:
    called: list[str] = []
    turns = interleaved(lambda: called.append("ours"), lambda: called.append("theirs"), rounds=3)
    assert called == ["ours", "theirs"] * 4
    assert (len(turns.ours), len(turns.theirs)) == (3, 3)
    assert min(turns.ours + turns.theirs) > 0


def test_a_ratio_is_the_median_over_rounds_and_not_of_medians() -> None:
    turns = Turns([1.0, 2.0, 4.0], [3.0, 2.0, 4.0])
    assert (turns.own, turns.peer, turns.ratio) == (2.0, 3.0, 1.0)
    assert turns.to_json() == {"ours_seconds": [1.0, 2.0, 4.0], "theirs_seconds": [3.0, 2.0, 4.0], "ratio": 1.0}
