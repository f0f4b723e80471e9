"""Calibration: fits the parameters of the kernel formulas to measured operator tables and writes efficiency files."""
