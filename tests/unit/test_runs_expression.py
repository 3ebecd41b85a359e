"""Expressions over records: values, units, near misses, refusals."""

import gzip
import json

import pytest

from workshop.errors import UserError
from workshop.records import expression
from workshop.records.load import Run
from workshop.records.summary import summarise


@pytest.fixture
def loader(tmp_path):
    """Two runs, `lab1/one` and `lab1/two`, made from raw metrics."""

    def write(name, rates):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        files = []
        for repeat, rate in enumerate(rates):
            events = [
                {"event": "meta", "world_size": len(rates), "kind": "gloo"},
                {
                    "event": "step",
                    "step": 0,
                    "loss": 9.0,
                    "tokens_per_s": 1.0,
                    "warmup": True,
                },
                {
                    "event": "step",
                    "step": 1,
                    "loss": 4.0,
                    "tokens_per_s": rate,
                    "warmup": False,
                },
                {
                    "event": "measure",
                    "name": "busbw",
                    "value": 2 * rate,
                    "unit": "GB/s",
                    "labels": {"bytes": 1024, "at": "x"},
                },
            ]
            file = folder / f"metrics.{repeat}.jsonl"
            file.write_text("".join(json.dumps(e) + "\n" for e in events))
            files.append(file)
        return Run(name, {"summary": summarise(files, 1)}, folder)

    runs = {
        "lab1/one": write("lab1/one", [90.0, 100.0, 120.0]),
        "lab1/two": write("lab1/two", [180.0, 190.0, 200.0]),
    }
    return runs.__getitem__


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('run("lab1/one").tokens_per_s', 100.0),
        ('run("lab1/one").tokens_per_s.min', 90.0),
        ('run("lab1/one").tokens_per_s.max', 120.0),
        ('run("lab1/one").tokens_per_s.spread', 0.3),
        ('run("lab1/one")["busbw{at=x,bytes=1024}"]', 200.0),
        ('run("lab1/one").first_loss - run("lab1/one").last_loss', 5.0),
        ('run("lab1/one").meta.world_size', 3),
        ('run("lab1/two").tokens_per_s / run("lab1/one").tokens_per_s', 1.9),
        ('1.8 < run("lab1/two").tokens_per_s / 100 <= 1.9', True),
        ('not (run("lab1/one").loss > 5 or 1 > 2)', True),
        ("round(max(1, 2.26), 1) + sum(1, 2) + median(1, 5, 9)", 10.3),
        ("-2 ** 2 + 7 // 2 % 2 + abs(-1)", -2),
    ],
)
def test_value(loader, text, value):
    assert expression.evaluate(text, loader) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 < 2 < 3", True),
        ("1 < 3 < 2", False),  # the last pair
        ("3 < 1 < 2", False),  # the first pair
        ("1 < 5 > 2 != 2", False),
        ("9 < 10", True),  # as text 9 comes after 10
        ("-2 < -1", True),
        ("1e3 == 1000", True),
        ("1 < 2 and 2 < 1", False),
        ("2 < 1 and 1 < 2", False),
        ("1 < 2 or 2 < 1", True),
        ("2 < 1 or 3 < 1", False),
        ("not 1 < 2", False),
    ],
)
def test_a_comparison_is_of_numbers_and_of_every_pair(loader, text, value):
    assert expression.evaluate(text, loader) is value


def test_unit_belongs_to_a_single_metric(loader):
    one = 'run("lab1/one")["busbw{at=x,bytes=1024}"]'
    assert expression.unit(one, loader) == "GB/s"
    rate = 'run("lab1/one").tokens_per_s'
    assert expression.unit(rate + ".min", loader) == "tokens/s"
    assert expression.unit(rate + ".spread", loader) == ""
    assert expression.unit(f"{one} / {one}", loader) == ""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('run("lab1/one").token_per_s', "did you mean tokens_per_s"),
        ('run("lab1/one")["busbw{at=x}"]', "busbw{at=x,bytes=1024}"),
        ('run("lab1/one")', "whole run"),
        ('run("lab1/one").meta.worldsize', "did you mean world_size"),
        ('run("lab1/one").loss.mean', "median, min, max, spread"),
        ('run("lab1/one").loss / 0', "no value"),
        ("1 +", "not an expression"),
        ("__import__('os').system('true')", "not allowed"),
        ("(1).__class__", "not allowed"),
        ("[1 for _ in (1,)]", "not allowed"),
        ("run(1)", "takes one name"),
        ("min()", "no value"),
        ("9**9**9", "no value"),
        ("(-8)**0.5", "no value"),
        ("10**5000", "no value"),
        ("1" + "0" * 400, "no value"),
        ("1e308 * 10", "not finite"),
        ("1e999 - 1e999", "not finite"),
        ("2j", "not allowed"),
        ("round(5, -10**9)", "no value"),
        ('run("lab1/one").meta.kind * 10**9', "no real number"),
        ('run("lab1/one").meta.kind % 1', "no real number"),
        ("-" * 1900 + "1", "not an expression"),
        ("-" * 5000 + "1", "5001 characters"),
        ("(" * 900 + "1" + ")" * 900, "not an expression"),
        ("+".join("1" * 60), "parts inside parts"),
        ("9" * 5000, "5000 characters"),
        ('predicted("pp2", "total", num_microbatches=10**9)', "not allowed"),
        ('predicted("pp2", "total", micro_batch=999999999)', "no value"),
        ("\0", "not an expression"),
    ],
)
def test_bad_expression_is_one_sentence(loader, text, says):
    with pytest.raises(UserError) as error:
        expression.evaluate(text, loader)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["inf", "nan", "-inf"])
def test_a_number_of_a_record_that_is_not_finite_has_no_value(loader, text):
    run = loader("lab1/one")
    run.summary["loss"]["median"] = float(text)
    for claim in ("< 5", "> 5", "!= 5"):
        with pytest.raises(UserError, match="not finite"):
            expression.evaluate(f'run("lab1/one").loss {claim}', loader)


@pytest.mark.parametrize("style", ["10000000000d", "d", ".999999999f", "Q"])
def test_a_format_that_is_none_is_one_sentence(style):
    with pytest.raises(UserError, match="cannot be shown as"):
        expression.formatted(1.5, style)
    assert expression.formatted(1.54, ",.1f") == "1.5"


def test_a_prediction_is_the_models() -> None:
    """From the records that the book holds, by the same code as figures."""
    text = 'predicted("pp2", "{}", micro_batch=4, num_microbatches=16)'
    rate = expression.evaluate(text.format("tokens_per_s"))
    step = expression.evaluate(text.format("step_time_s"))
    assert rate * step == pytest.approx(4 * 16 * 1024)
    slow = expression.evaluate(
        'predicted("pp2", "step_time_s", micro_batch=4, num_microbatches=16,'
        ' pp="lab1/links-2nodes")'
    )
    assert slow > step


def test_a_prediction_can_start_from_measured_ranks() -> None:
    """The compute of the rank's record, and the messages of the model."""
    ranks = "lab1/one-rank-1.3b"
    options = f'micro_batch=16, ranks="{ranks}"'
    predicted = {
        part: expression.evaluate(f'predicted("tp2", "{part}", {options})')
        for part in ("compute", "tp", "optimizer", "step_time_s")
    }
    labels = "{layout=tp2,micro_batch=16,stage=0}"
    measured = sum(
        expression.evaluate(f'1 * run("{ranks}")["{part}_ms{labels}"]')
        for part in ("forward", "backward")
    )
    assert predicted["compute"] == pytest.approx(measured / 1e3)
    assert predicted["tp"] > 0 and predicted["step_time_s"] == pytest.approx(
        predicted["compute"] + predicted["tp"] + predicted["optimizer"]
    )
    with pytest.raises(UserError, match="has not measured tp16"):
        expression.evaluate(f'predicted("tp16", "compute", {options})')


@pytest.mark.parametrize(
    "text, says",
    [
        ('predicted("xx2", "total")', "a layout is named by"),
        ('predicted("tp2", "speed")', "has no 'speed': use one of"),
        ('predicted("tp2")', "is not allowed"),
        ('predicted("tp2", "total", dp=run("lab1/x"))', "is not allowed"),
        ('predicted("tp2", "total", colour=1)', "colour"),
    ],
)
def test_a_wrong_prediction_is_one_sentence(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        expression.evaluate(text)


def keep_step(folder, contestant, product_us):
    """Keep a step of an embedding and a product beside a message."""
    spans = [("embedding", 7, 0, 10), ("gemm", 7, 10, product_us)]
    if contestant != "alone":
        spans.append(("ncclDevKernel", 20, 10, 50))
    events = [
        {"ph": "X", "cat": "kernel", "name": name, "ts": ts, "dur": dur,
         "args": {"device": 0, "stream": stream}}
        for name, stream, ts, dur in spans
    ]  # fmt: skip
    file = folder / "artifacts" / contestant / "trace.json.gz"
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"traceEvents": events}).encode()
    file.write_bytes(gzip.compress(text))


def test_by_place_reads_the_steps_that_a_run_kept(loader):
    folder = loader("lab1/one").folder
    keep_step(folder, "alone", 100)
    keep_step(folder, "ddp", 150)
    text = 'by_place("lab1/one", "ddp", "{}")'
    ratio = expression.evaluate(text.format("met"), loader)
    assert ratio == pytest.approx(1.5)
    longer = expression.evaluate("2 * " + text.format("longer"), loader)
    assert longer == pytest.approx(0.1)
    with pytest.raises(UserError, match="knows no 'longr'.*longer"):
        expression.evaluate(text.format("longr"), loader)
    with pytest.raises(UserError, match="no trace can be read"):
        expression.evaluate('by_place("lab1/two", "ddp", "met")', loader)
    with pytest.raises(UserError, match="has no value"):
        expression.evaluate('by_place("lab1/one")', loader)
