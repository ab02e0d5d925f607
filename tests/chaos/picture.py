"""Throughput and faults over time, as an SVG that is written by hand. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape

from tests.chaos.faults import Kind
from tests.chaos.probes import Span

WIDTH, LEFT, RIGHT, TOP = 1200, 110, 20, 50
CHART_HEIGHT, LANE_HEIGHT, LANE_GAP, AXIS_HEIGHT = 220, 16, 4, 40
WIDTH_MIN = 3.0
TICKS_MAX = 12
COLOURS = {
    Kind.KILL: "#c62828",
    Kind.STOP: "#6a1b9a",
    Kind.CUT: "#ef6c00",
    Kind.SILENCE: "#f9a825",
    Kind.DEAF: "#9e9d24",
    Kind.MUTE: "#558b2f",
    Kind.SLOW: "#0277bd",
    Kind.CLOCK: "#37474f",
}
# From a kill until the next process serves.
GONE_COLOUR = "#f8d0cc"
COMMITTED_COLOUR, ABORTED_COLOUR = "#2e7d32", "#b0bec5"
STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200)


@dataclass(frozen=True, slots=True)
class Story:
    """What is drawn: times in seconds since the beginning."""

    title: str
    duration_s: float
    committed_s: Sequence[float]
    aborted_s: Sequence[float]
    spans: Sequence[Span]
    lanes: Sequence[str]
    faults_end_s: float


def draw(story: Story) -> str:
    """The picture."""
    bottom = TOP + CHART_HEIGHT
    height = bottom + AXIS_HEIGHT + len(story.lanes) * (LANE_HEIGHT + LANE_GAP) + 40
    x = _Scale(story.duration_s)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"'
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        _text(LEFT, 22, story.title, size=16),
        *_bars(story, x),
        *_ticks(story, x, bottom),
        *_lanes(story, x, bottom + AXIS_HEIGHT),
        *_legend(height - 12),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


class _Scale:
    def __init__(self, duration_s: float) -> None:
        self.duration_s = max(duration_s, 1.0)
        self._pixels = (WIDTH - LEFT - RIGHT) / self.duration_s

    def at(self, moment_s: float) -> float:
        """Where a moment is, kept inside the picture."""
        return LEFT + min(max(moment_s, 0.0), self.duration_s) * self._pixels


def _bars(story: Story, x: _Scale) -> list[str]:
    """One bar for each second: what was paid, and on top of it what was refused."""
    committed = Counter(int(moment_s) for moment_s in story.committed_s)
    aborted = Counter(int(moment_s) for moment_s in story.aborted_s)
    seconds = range(int(x.duration_s) + 1)
    most = max((committed[s] + aborted[s] for s in seconds), default=0) or 1
    parts = [_text(LEFT - 8, TOP + 10, f"{most}/s", end=True)]
    bottom = TOP + CHART_HEIGHT
    width = max(x.at(1) - x.at(0) - 0.5, 0.5)
    for second in seconds:
        paid = committed[second] * CHART_HEIGHT / most
        refused = aborted[second] * CHART_HEIGHT / most
        for tall, above, colour in (
            (paid, 0.0, COMMITTED_COLOUR),
            (refused, paid, ABORTED_COLOUR),
        ):
            if tall:
                parts.append(_box(x.at(second), bottom - above - tall, width, tall, colour))
    return parts


def _ticks(story: Story, x: _Scale, bottom: int) -> list[str]:
    step = next((s for s in STEPS if x.duration_s / s <= TICKS_MAX), STEPS[-1])
    parts = [f'<path d="M{LEFT} {bottom}H{WIDTH - RIGHT}" stroke="black"/>']
    seconds = range(0, int(x.duration_s) + 1, step)
    parts += [_text(x.at(second), bottom + 18, f"{second} s") for second in seconds]
    end = x.at(story.faults_end_s)
    parts.append(
        f'<path d="M{end:.1f} {TOP}V{bottom}" stroke="black" stroke-dasharray="4 3">'
        "<title>the last fault</title></path>"
    )
    return parts


def _lanes(story: Story, x: _Scale, top: int) -> list[str]:
    """A lane for each process, and in it what was done to it."""
    parts = []
    where = {name: top + n * (LANE_HEIGHT + LANE_GAP) for n, name in enumerate(story.lanes)}
    for name, y in where.items():
        parts.append(_text(LEFT - 8, y + LANE_HEIGHT - 4, name, end=True))
        parts.append(_box(LEFT, y, WIDTH - LEFT - RIGHT, LANE_HEIGHT, "#f3f4f6"))
    kills = [span for span in story.spans if span.fault.kind is Kind.KILL]
    others = [span for span in story.spans if span.fault.kind is not Kind.KILL]
    for span in kills:
        parts += _marks(story, x, where, span, GONE_COLOUR)
    for span in others:
        parts += _marks(story, x, where, span, COLOURS[span.fault.kind])
    for span in kills:
        mark = replace(span, ended_s=span.began_s)
        parts += _marks(story, x, where, mark, COLOURS[Kind.KILL])
    return parts


def _marks(story: Story, x: _Scale, where: Mapping[str, int], span: Span, colour: str) -> list[str]:
    """A box for each victim of a fault, in its lane."""
    from_x = x.at(span.began_s)
    to_x = x.at(story.duration_s if span.ended_s is None else span.ended_s)
    width = max(to_x - from_x, WIDTH_MIN)
    says = f"{span.began_s:.1f} s: {span.fault}"
    lanes = [where[victim.name] for victim in span.fault.victims if victim.name in where]
    return [_box(from_x, y, width, LANE_HEIGHT, colour, says=says) for y in lanes]


def _legend(y: int) -> list[str]:
    names = {"paid": COMMITTED_COLOUR, "refused": ABORTED_COLOUR}
    names |= {str(kind): colour for kind, colour in COLOURS.items()}
    parts = []
    for number, (name, colour) in enumerate(names.items()):
        at = LEFT + number * (WIDTH - LEFT - RIGHT) // len(names)
        parts += [_box(at, y - 10, 10, 10, colour), _text(at + 14, y, name)]
    return parts


def _box(x: float, y: float, width: float, height: float, colour: str, *, says: str = "") -> str:
    inside = f"<title>{escape(says)}</title>" if says else ""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
        f' fill="{colour}">{inside}</rect>'
    )


def _text(x: float, y: float, words: str, *, end: bool = False, size: int = 12) -> str:
    anchor = ' text-anchor="end"' if end else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}"{anchor}>{escape(words)}</text>'
