"""The picture: well-formed, to scale, and with everything in it."""

from __future__ import annotations

from xml.etree import ElementTree

from tests.chaos.faults import Fault, Kind, Victim
from tests.chaos.picture import COLOURS, COMMITTED_COLOUR, LEFT, RIGHT, WIDTH, Story, draw
from tests.chaos.probes import Span

SVG = "{http://www.w3.org/2000/svg}"
ORDER, ETCD = Victim("order", 0), Victim("etcd", 0)


def _drawn(**changes: object) -> list[ElementTree.Element]:
    story = {
        "title": "a <story>",
        "duration_s": 100.0,
        "committed_s": [0.5, 0.6, 50.5],
        "aborted_s": [50.7],
        "spans": [
            Span(Fault(Kind.KILL, (ORDER,), 10), 10.0, 14.0),
            Span(Fault(Kind.STOP, (ORDER, ETCD), 20, 30.0), 20.0, 50.0),
            Span(Fault(Kind.CUT, (ETCD,), 90, 1.0), 90.0, None),
        ],
        "lanes": ["order-0", "etcd-0"],
        "faults_end_s": 91.0,
    }
    root = ElementTree.fromstring(draw(Story(**{**story, **changes})))  # type: ignore[arg-type]
    return list(root.iter())


def _boxes(elements: list[ElementTree.Element], colour: str) -> list[tuple[float, float]]:
    """Left edges and widths, but for the legend's."""
    found = [e for e in elements if e.tag == f"{SVG}rect" and e.get("fill") == colour]
    return [(float(e.get("x", 0)), float(e.get("width", 0))) for e in found][:-1]


def test_faults_are_where_and_as_long_as_they_were() -> None:
    """One box in the lane of each victim; one that lasts goes to the end."""
    pixels = (WIDTH - LEFT - RIGHT) / 100
    elements = _drawn()
    stops = _boxes(elements, COLOURS[Kind.STOP])
    expected = (round(LEFT + 20 * pixels, 1), round(30 * pixels, 1))
    assert [expected, expected] == stops
    assert 1 == len(_boxes(elements, COLOURS[Kind.KILL]))
    ((at, width),) = _boxes(elements, COLOURS[Kind.CUT])
    assert abs(at + width - (WIDTH - RIGHT)) < 0.2


def test_payments_are_bars_of_one_second() -> None:
    """The tallest is the scale, and says what it stands for."""
    elements = _drawn()
    assert 2 == len(_boxes(elements, COMMITTED_COLOUR))
    words = [e.text for e in elements if e.tag == f"{SVG}text"]
    assert {"2/s", "a <story>", "order-0", "etcd-0", "kill -9"} <= set(words)


def test_a_run_without_anything_can_be_drawn() -> None:
    """No payment, no fault, no time."""
    assert _drawn(duration_s=0.0, committed_s=[], aborted_s=[], spans=[], faults_end_s=0.0)
