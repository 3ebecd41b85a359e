"""Predictions for the prose come from records, and draw nothing."""

import subprocess
import sys

from workshop.records.summary import measure_key
from workshop.records.values import split

EVALUATE = """
import importlib, pkgutil, sys
from workshop.records import expression, predict
for module in pkgutil.iter_modules(predict.__path__, predict.__name__ + "."):
    importlib.import_module(module.name)
for options in ("", ", ranks='lab1/one-rank-1.3b'"):
    text = f"predicted('tp2', 'step_time_s', micro_batch=16{options})"
    assert 0 < expression.evaluate(text) < 10
print("matplotlib" in sys.modules)
"""


def test_a_number_is_predicted_without_matplotlib():
    done = subprocess.run(
        [sys.executable, "-c", EVALUATE],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "False\n", done.stderr


def test_a_key_is_split_into_what_it_was_made_of():
    labels = {"layout": "dp2,tp2", "bytes": "8", "at": "a=b"}
    assert split(measure_key("time", labels)) == ("time", labels)
    assert split("tokens_per_s") == ("tokens_per_s", {})
