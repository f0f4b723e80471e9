"""Devices that several share: co-tenants that slow a replica down, and two phases of one replica on one device."""
