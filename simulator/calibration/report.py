"""Error tables and plots of a calibration, for docs/calibration.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from hardware_profiles.errors import UserError
from simulator.calibration.calibrate import Calibration
from simulator.calibration.mapping import TRANSFERS
from simulator.calibration.points import Points
from simulator.calibration.transfer import FAMILIES, Errors

BEGIN = "<!-- generated: begin -->"
END = "<!-- generated: end -->"
WORST_PER_FAMILY = 6


def write_report(result: Calibration, docs_dir: Path) -> None:
    """Rewrite the generated part of ``docs_dir``/calibration.md and the plots in ``docs_dir``/img."""
    page = docs_dir / "calibration.md"
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    if BEGIN not in text or END not in text:
        raise UserError(f"{page}: has no lines '{BEGIN}' and '{END}'; add them where the tables belong")
    head, tail = text.split(BEGIN)[0], text.split(END)[1]
    page.write_text(head + BEGIN + "\n\n" + tables(result) + "\n" + END + tail, encoding="utf-8")
    (docs_dir / "img").mkdir(exist_ok=True)
    for family in FAMILIES:
        _plot(family, [p for p in result.points if p.family == family], docs_dir / "img")


def tables(result: Calibration) -> str:
    """Markdown: errors per device and family, of borrowed parameters, who borrows, and the worst rows."""
    parts = ["### Errors on shapes the fit has not seen", *_device_tables(result.points)]
    parts += ["### Errors of borrowed parameters", _left_out_table(result.errors)]
    parts += ["### Who borrows from whom", _transfer_table()]
    parts += ["### Worst rows", _worst_table(result.points)]
    return "\n\n".join(parts) + "\n"


def _percent(median: float, p90: float) -> str:
    return f"{100 * median:.1f} / {100 * p90:.0f}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def _device_tables(points: Sequence[Points]) -> list[str]:
    """One table per family: devices down, keys across, median / p90 in percent and number of rows."""
    texts = []
    for family in FAMILIES:
        of_family = [p for p in points if p.family == family]
        keys = list(dict.fromkeys(p.key for p in of_family))
        cells = {(p.device, p.key): _cell(np.abs(p.error)) for p in of_family}
        devices = list(dict.fromkeys(p.device for p in of_family))
        rows = [[d, *(cells.get((d, k), "") for k in keys)] for d in devices]
        texts.append(f"**{family.capitalize()}**\n\n" + _table([family, *keys], rows))
    return texts


def _cell(error: np.ndarray[tuple[int], np.dtype[np.float64]]) -> str:
    return f"{_percent(float(np.median(error)), float(np.quantile(error, 0.9)))} ({len(error)})"


def _left_out_table(errors: Errors) -> str:
    found: dict[tuple[str, str], dict[str, str]] = {}
    for (distance, family, key), (median, p90, count) in errors.items():
        found.setdefault((family, key), {})[distance] = f"{_percent(median, p90)} ({count})"
    order = sorted(found, key=lambda fk: (list(FAMILIES).index(fk[0]), fk[1]))
    rows = [
        [f, k or "all", found[f, k].get("same generation", ""), found[f, k].get("other generation", "")]
        for f, k in order
    ]
    return _table(["family", "key", "same generation", "other generation"], rows)


def _transfer_table() -> str:
    rows = [[name, t.source, t.distance, t.reason] for name, t in TRANSFERS.items()]
    return _table(["device", "parameters of", "distance", "reason"], rows)


def _worst_table(points: Sequence[Points]) -> str:
    rows = []
    for family in FAMILIES:
        candidates = [
            (label, error, p) for p in points if p.family == family for label, error in p.worst(WORST_PER_FAMILY)
        ]
        candidates.sort(key=lambda c: -abs(np.log1p(c[1])))
        rows += [[family, p.device, p.key, label, f"{100 * e:+.0f} %"] for label, e, p in candidates[:WORST_PER_FAMILY]]
    return _table(["family", "device", "key", "shape", "error"], rows)


def _plot(family: str, points: Sequence[Points], folder: Path) -> None:
    """Predicted over measured against measured time, one colour per device."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    colours = [plt.get_cmap("tab20")(i) for i in (0, 2, 4, 6, 8, 10, 12, 16, 18, 1, 5, 9)]
    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    for i, (device, group) in enumerate(_by_device(points).items()):
        measured = np.concatenate([p.measured_s for p in group])
        predicted = np.concatenate([p.predicted_s for p in group])
        axes.plot(measured * 1e6, predicted / measured, ".", ms=2.5, alpha=0.6, color=colours[i], label=device)
    axes.axhspan(0.9, 1.1, color="0.9", zorder=0)
    axes.set(xscale="log", yscale="log", ylim=(0.25, 4), xlabel="measured [µs]", ylabel="predicted / measured")
    axes.set_yticks([0.25, 0.5, 0.8, 1, 1.25, 2, 4], ["0.25", "0.5", "0.8", "1", "1.25", "2", "4"])
    axes.minorticks_off()
    axes.set_title(f"{family}: shapes the fit has not seen (band: ±10 %)", fontsize=10)
    axes.legend(fontsize=7, markerscale=3, ncols=3, loc="upper right")
    figure.savefig(folder / f"calibration_{family.replace(' ', '_')}.png", dpi=90, metadata={"Software": None})
    plt.close(figure)


def _by_device(points: Sequence[Points]) -> Mapping[str, list[Points]]:
    grouped: dict[str, list[Points]] = {}
    for p in points:
        grouped.setdefault(p.device, []).append(p)
    return grouped
