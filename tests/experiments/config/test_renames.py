import re

import pytest
from quicksilver.experiments.config.renames import check_names


@pytest.mark.parametrize(("arguments", "message"), [
    ("experiment=train seconds=5", "seconds=5: is experiment.seconds=5 now"),
    ("experiment=kernel_bench full=true", "full=true: is experiment.full=true now"),
    ("policy=threshold_sdar", "policy=threshold_sdar: is policy=threshold policy.tau=0.85 now"),
    ("windows=revised_blocks", "is windows=grid_blocks windows.num_revised=1 now"),
    ("decoder=threshold policy.tau=0.8", "policy.tau=0.8: is decoder.tau=0.8 with decoder=threshold"),
    ("decoder=llada windows.size=12", "windows.size=12: is decoder.block=12 with decoder=llada"),
    ("decoder=p2 schedule.base.steps=4", "schedule.base.steps=4: is decoder.steps=4 with decoder=p2"),
    ("decoder=llada policy=top_margin",
     "decoder=llada takes decoder.block, decoder.steps; parts are chosen one by one with decoder=parts"),
    ("decoder=autoregressive cache=recompute", "cache=recompute: decoder=autoregressive takes decoder.sampler; ")])
def test_an_old_spelling_is_answered_with_the_present_one(arguments: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        check_names(arguments.split())


@pytest.mark.parametrize("arguments", [
    "experiment=train experiment.seconds=5", "decoder=parts policy=threshold policy.tau=0.8", "policy=threshold",
    "decoder=autoregressive sampler=categorical sampler.temperature=0.7", "decoder=llada decoder.steps=2",
    "-m decoder=llada,threshold", "~task.sudoku4.block_size", "windows=blocks windows.size=2", "decoder=nope"])
def test_present_spellings_pass(arguments: str) -> None:
    check_names(arguments.split())
