"""Error tables and plots of a calibration, for docs/calibration.md and docs/calibration_worst.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from hardware_profiles.errors import UserError
from simulator.calibration.calibrate import Calibration
from simulator.calibration.checks import Check
from simulator.calibration.mapping import TRANSFERS
from simulator.calibration.points import Points
from simulator.calibration.transfer import FAMILIES, Errors

BEGIN = "<!-- generated: begin -->"
END = "<!-- generated: end -->"
WORST_PER_FAMILY = 10
GOALS: Mapping[str, float] = {
    "gemm": 0.08,
    "prefill attention": 0.10,
    "decode attention": 0.10,
    "moe": 0.12,
    "collectives": 0.12,
}
"""Median absolute errors on unseen shapes that every measured device should reach."""


def write_report(result: Calibration, docs_dir: Path) -> None:
    """Rewrite the generated parts of the two pages in ``docs_dir`` and the plots in ``docs_dir``/img."""
    pages = {"calibration.md": tables(result), "calibration_worst.md": worst_page(result)}
    written = {docs_dir / name: _replaced(docs_dir / name, text) for name, text in pages.items()}
    for page, text in written.items():
        page.write_text(text, encoding="utf-8")
    (docs_dir / "img").mkdir(exist_ok=True)
    for family in FAMILIES:
        _plot(family, [p for p in result.points if p.family == family], docs_dir / "img")
    for device, points in _by_device(result.points).items():
        _plot_device(device, points, docs_dir / "img")


def _replaced(page: Path, generated: str) -> str:
    """The page's text with what lies between the marks replaced."""
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    if BEGIN not in text or END not in text:
        raise UserError(f"{page}: has no lines '{BEGIN}' and '{END}'; add them where the tables belong")
    head, tail = text.split(BEGIN)[0], text.split(END)[1]
    return head + BEGIN + "\n\n" + generated + "\n" + END + tail


def tables(result: Calibration) -> str:
    """Markdown: errors per device and family, by dtype, on other tables, of borrowed parameters, and who borrows."""
    parts = ["### All rows of a device", _summary_table(result.points)]
    parts += ["### By dtype or operation", *_device_tables(result.points)]
    parts += ["### Tables that no fit has seen", _check_table(result.checks)]
    parts += ["### Errors of borrowed parameters", _left_out_table(result.errors)]
    parts += ["### Who borrows from whom", _transfer_table()]
    return "\n\n".join(parts) + "\n"


def worst_page(result: Calibration) -> str:
    """Markdown: the ten rows of each family that are furthest off, and a plot per device."""
    parts = []
    for family in FAMILIES:
        parts += [f"## {family.capitalize()}", _worst_table(family, result.points)]
    parts += ["## Predicted against measured, by device"]
    parts += [f"![{d}](img/calibration_device_{d}.png)" for d in _by_device(result.points)]
    return "\n\n".join(parts) + "\n"


def _summary_table(points: Sequence[Points]) -> str:
    """Devices down, families across: all dtypes or operations pooled, misses in bold."""
    rows = [["goal", *(f"{100 * g:g}" for g in GOALS.values())]]
    for device, group in _by_device(points).items():
        cells = []
        for family, goal in GOALS.items():
            errors = [np.abs(p.error) for p in group if p.family == family]
            cell = _cell(np.concatenate(errors)) if errors else ""
            missed = bool(errors) and float(np.median(np.concatenate(errors))) > goal
            cells.append(f"**{cell}**" if missed else cell)
        rows.append([device, *cells])
    return _table(["device", *GOALS], rows)


def _check_table(checks: Sequence[Check]) -> str:
    rows = [
        [c.kernel, c.source, c.device, _cell(np.abs(c.error)), f"{100 * float(np.median(c.error)):+.1f}"]
        for c in checks
    ]
    return _table(["kernel", "measured by", "predicted as", "median / p90", "median signed"], rows)


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


def _worst_table(family: str, points: Sequence[Points]) -> str:
    candidates = [(label, error, p) for p in points if p.family == family for label, error in p.worst(WORST_PER_FAMILY)]
    candidates.sort(key=lambda c: -abs(np.log1p(c[1])))
    rows = [[p.device, p.key, label, f"{100 * e:+.0f} %"] for label, e, p in candidates[:WORST_PER_FAMILY]]
    return _table(["device", "key", "shape", "error"], rows)


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


def _plot_device(device: str, points: Sequence[Points], folder: Path) -> None:
    """Predicted against measured time of one device, one panel per family, one colour per dtype or operation."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    families = [f for f in FAMILIES if any(p.family == f for p in points)]
    figure, panels = plt.subplots(
        1, len(families), figsize=(2.6 * len(families), 2.8), layout="constrained", squeeze=False
    )
    for axes, family in zip(panels[0], families, strict=True):
        of_family = [p for p in points if p.family == family]
        for p in of_family:
            axes.plot(p.measured_s * 1e6, p.predicted_s * 1e6, ".", ms=2.5, alpha=0.6, label=p.key)
        ends = [f(float(f(p.measured_s)) * 1e6 for p in of_family) for f in (min, max)]
        axes.plot(ends, ends, color="0.5", lw=0.8, zorder=0)
        axes.set(xscale="log", yscale="log", xlabel="measured [µs]")
        axes.set_title(family, fontsize=9)
        axes.legend(fontsize=6, markerscale=3)
    panels[0][0].set_ylabel("predicted [µs]")
    figure.suptitle(f"{device}: shapes the fit has not seen", fontsize=10)
    figure.savefig(folder / f"calibration_device_{device}.png", dpi=80, metadata={"Software": None})
    plt.close(figure)


def _by_device(points: Sequence[Points]) -> Mapping[str, list[Points]]:
    grouped: dict[str, list[Points]] = {}
    for p in points:
        grouped.setdefault(p.device, []).append(p)
    return grouped
