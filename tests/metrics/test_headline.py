"""The one number that a stage is read by: what is not there is left out, and all stages share their columns."""

import pytest

from optogram.metrics.headline import Headline, beside_chance

CHECKED = {"agreement": 0.5, "chance": 0.25, "p_value": 0.01, "heads": 8, "agreement_by_margin": 0.75}


def test_what_there_is_not_is_left_out():
    found = Headline("accuracy", 0.5, 8, "without it", float("nan"), p_value=0.01)
    assert found.columns() == {"measure": "accuracy", "value": 0.5, "of": 8, "versus": "without it", "p_value": 0.01}
    whole = Headline("accuracy", 0.5, 8, "without it", 0.25, 1.0)
    assert whole.columns()["versus_value"] == 0.25
    assert whole.columns()["yardstick"] == 1.0


def test_a_share_is_told_beside_chance_or_why_it_is_not():
    found = beside_chance("roles", CHECKED, of="heads")
    assert found == {
        "measure": "roles",
        "value": 0.5,
        "of": 8,
        "versus": "by chance",
        "versus_value": 0.25,
        "p_value": 0.01,
    }
    few = {"truth_skipped_by_margin": "2 of 8 heads", **CHECKED}
    assert beside_chance("roles", few, of="heads", value="precision", suffix="_by_margin") == {
        "skipped": "2 of 8 heads"
    }
    with pytest.raises(KeyError, match="heads_by_margin"):
        beside_chance("roles", CHECKED, of="heads", suffix="_by_margin")
