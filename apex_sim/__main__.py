"""``python -m apex_sim`` is ``apex-sim``."""

from apex_sim.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
