"""Kernels of other times: a device's efficiencies as an engine's older libraries reached them."""

from __future__ import annotations

from dataclasses import replace

from hardware_profiles.schema import DeviceProfile
from simulator.physics.efficiency import efficiency_of


def slower_compute(device: DeviceProfile, factor: float) -> DeviceProfile:
    """The device with GEMM and prompt attention ``factor`` times slower where arithmetic bounds them; memory as it is."""
    if factor == 1.0:
        return device
    fits = efficiency_of(device)
    slower = replace(
        fits,
        gemm={key: replace(fit, compute=fit.compute / factor) for key, fit in fits.gemm.items()},
        moe={key: replace(fit, compute=fit.compute / factor) for key, fit in fits.moe.items()},
        prefill_attention={
            key: replace(fit, compute=fit.compute / factor) for key, fit in fits.prefill_attention.items()
        },
    )
    return replace(device, efficiency=slower)
