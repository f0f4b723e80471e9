"""``python -m simulator.calibration --data DIR``: regenerate the efficiency files; --docs: tables and plots too."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hardware_profiles.efficiency import EFFICIENCY_DIR
from hardware_profiles.errors import UserError
from hardware_profiles.loader import device_names, load_device


def main(argv: list[str] | None = None) -> int:
    """Fit everything; 2 for a user's mistake."""
    parser = argparse.ArgumentParser(prog="python -m simulator.calibration", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds kernels/*.csv")
    parser.add_argument("--out", type=Path, default=EFFICIENCY_DIR, help="folder for the YAML files (%(default)s)")
    parser.add_argument("--docs", type=Path, help="folder of calibration.md: rewrite its tables and img/*.png")
    args = parser.parse_args(argv)
    from simulator.calibration.calibrate import calibrate
    from simulator.calibration.report import write_report

    try:
        result = calibrate(args.data, args.out, {name: load_device(name) for name in device_names()})
        if args.docs is not None:
            write_report(result, args.docs)
    except UserError as error:
        print(f"calibration: error: {error}", file=sys.stderr)
        return 2
    print(f"{len(result.efficiencies)} devices written to {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
