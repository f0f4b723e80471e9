"""What device-hours and joules cost at a cluster: dollars, energy at the meter, emissions; all linear."""

from __future__ import annotations

from dataclasses import dataclass

from hardware_profiles.schema import Cluster, DeviceProfile
from hardware_profiles.terms import HOURS_PER_YEAR, usd_per_device_hour
from simulator.physics.server import host_power_of

JOULES_PER_KWH = 3.6e6
SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Coefficients of (device-seconds, joules of the devices).

    Energy at the meter is PUE times that of the devices and their hosts. Who rents pays for device-hours alone: the
    provider's electricity is in the rent. Who owns pays the purchase, written off evenly, and the electricity. Embodied
    emissions are written off like a purchase, and every hour of use bears its share, also of idle devices.
    """

    usd_per_device_hour: float | None
    """Rent, or purchase over lifetime; None: not known."""
    usd_per_kwh: float
    """Of energy at the meter; 0 for rented devices."""
    pue: float
    host_idle_w: float
    """Per device."""
    host_slope: float
    """Joules of the host per joule of the device."""
    gco2_per_kwh: float
    embodied_g_per_device_hour: float | None
    """Of the device and, where known, its share of the host; None: not known."""
    power_known: bool = True
    """False: the profile has neither TDP nor power, so the joules of its devices count as 0."""

    @classmethod
    def of(cls, cluster: Cluster) -> Rates:
        """Under the cluster's terms, at its site."""
        host, owned = host_power_of(cluster), cluster.terms.pricing == "owned"
        return cls(
            usd_per_device_hour=usd_per_device_hour(cluster.device, cluster.terms),
            usd_per_kwh=cluster.site.usd_per_kwh if owned else 0.0,
            pue=cluster.site.pue,
            host_idle_w=host.idle_w,
            host_slope=host.slope,
            gco2_per_kwh=cluster.site.gco2_per_kwh,
            embodied_g_per_device_hour=_embodied_g_per_device_hour(cluster),
            power_known=power_known(cluster.device),
        )

    def host_j(self, device_s: float, device_j: float) -> float:
        """Energy of the hosts [J]."""
        return self.host_idle_w * device_s + self.host_slope * device_j

    def facility_kwh(self, device_s: float, device_j: float) -> float:
        """Energy at the meter of the site [kWh]: devices, hosts, cooling and losses."""
        return self.pue * (device_j + self.host_j(device_s, device_j)) / JOULES_PER_KWH

    def usd(self, device_s: float, device_j: float) -> float | None:
        """Rent, or purchase share and electricity [$]; None without a price."""
        if self.usd_per_device_hour is None:
            return None
        held = self.usd_per_device_hour * device_s / SECONDS_PER_HOUR
        return held + self.usd_per_kwh * self.facility_kwh(device_s, device_j)

    def operational_g(self, device_s: float, device_j: float) -> float:
        """Emissions of the electricity, location-based [g CO2e]."""
        return self.gco2_per_kwh * self.facility_kwh(device_s, device_j)

    def embodied_g(self, device_s: float) -> float | None:
        """Share of the emissions of manufacture [g CO2e]; None when not known."""
        hourly = self.embodied_g_per_device_hour
        return None if hourly is None else hourly * device_s / SECONDS_PER_HOUR

    def gco2e(self, device_s: float, device_j: float) -> float:
        """Operational and, where known, embodied emissions [g CO2e]."""
        return self.operational_g(device_s, device_j) + (self.embodied_g(device_s) or 0.0)


def full_power_usd_per_hour(cluster: Cluster) -> float | None:
    """All devices of the cluster [$/h]: rent; or purchase share and electricity at TDP, the dearest hour there is. None
    without a price."""
    hour_s, watts = SECONDS_PER_HOUR * cluster.num_devices, cluster.device.tdp_w or 0.0
    return Rates.of(cluster).usd(hour_s, watts * hour_s)


def power_known(device: DeviceProfile) -> bool:
    """The profile says what the device draws, or at least its TDP."""
    return device.power is not None or device.tdp_w is not None


def _embodied_g_per_device_hour(cluster: Cluster) -> float | None:
    device = cluster.device.embodied_kgco2e
    if device is None:
        return None
    host = (cluster.node.embodied_kgco2e or 0.0) / cluster.node.num_devices
    return 1e3 * (device + host) / (cluster.terms.lifetime_years * HOURS_PER_YEAR)
