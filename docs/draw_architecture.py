"""Draw the rooms of skad: ``python docs/draw_architecture.py``.

The drawing is ``images/architecture.svg``. ``tests/test_imports.py`` reads the layers here,
holds the imports to them, and the drawing to both.
"""

from html import escape
from pathlib import Path

# From the top: each imports from those below it, and from itself, only.
LAYERS = [
    {"benchmark": "many detectors on many tables, resumable"},
    {"plotting": "heat maps, bars, reports", "testing": "the contract, as checks"},
    {"metrics": "was it right, and for the right reason"},
    {"calibration": "promises: p-values, false discoveries"},
    {"model_selection": "training on the normal rows inside a search"},
    {"detectors": "one folder a family: features, distance, pooling"},
    {"neural": "networks: trained by skorch, scored in blocks"},
    {"explanation": "explain(estimator, X), for any detector; rules of other libraries"},
    {"base": "the contract: fit, score, explain"},
    {"_thresholds": "in and out of sample", "_linear_map": "columns made of others"},
    {
        "_estimators": "what is inside",
        "_decomposition": "a score as a sum",
        "_references": "kept rows",
    },
    {"datasets": "X, y, mask", "_images": "rows and shapes", "_labels": "+1, -1, 0"},
    {"relevance": "how a score flows back", "images": "corruptions, confetti, views"},
    {
        "_values": "parameters in groups",
        "_docs": "texts of many docstrings",
        "_warnings": "at the caller's line",
    },
    {
        "_sklearn": "its private names",
        "_versions": "what is installed",
        "_typing": "names for types",
    },
]
WITH_TORCH = {"relevance", "images", "neural", "detectors", "testing"}

_WIDTH, _LINE, _GAP = 720, 40, 8
_STYLE = """
  text { font-family: system-ui, sans-serif; font-size: 13px; fill: #1b2733 }
  .room { font-family: ui-monospace, monospace; font-weight: 600 }
  .plain { fill: #eef2f6 } .torch { fill: #ffe9d6 } rect { stroke: #9fb0c0 }
"""


def draw():
    """Return the drawing, a string of SVG."""
    height = len(LAYERS) * (_LINE + _GAP) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        'role="img" aria-label="The rooms of skad; imports run downwards only">',
        f"<style>{_STYLE}</style>",
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff" stroke="none"/>',
    ]
    for level, rooms in enumerate(LAYERS):
        width = (_WIDTH - 60 - _GAP * (len(rooms) - 1)) / len(rooms)
        for i, (room, what) in enumerate(rooms.items()):
            parts += _box(
                room, what, 50 + i * (width + _GAP), 8 + level * (_LINE + _GAP), width
            )
    parts += [
        f'<path d="M24 16 V{height - 56}" stroke="#5b7083" stroke-width="2" fill="none"/>',
        f'<path d="M17 {height - 58} h14 l-7 13 z" fill="#5b7083"/>',
        f'<text x="50" y="{height - 14}">Imports run downwards only. Orange rooms import '
        "torch, when one of them is first used.</text>",
        "</svg>\n",
    ]
    return "\n".join(parts)


def _box(room, what, x, y, width):
    kind = "torch" if room in WITH_TORCH else "plain"
    box = f'x="{x:.0f}" y="{y}" width="{width:.0f}" height="{_LINE}" rx="6"'
    yield f'<rect class="{kind}" {box}/>'
    yield f'<text class="room" x="{x + 10:.0f}" y="{y + 17}">{escape(room)}</text>'
    yield f'<text x="{x + 10:.0f}" y="{y + 33}">{escape(what)}</text>'


if __name__ == "__main__":
    Path(__file__).with_name("images").joinpath("architecture.svg").write_text(draw())
