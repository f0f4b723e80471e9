"""Low-rank adapters that live in host memory and are loaded into the device when requests need them."""
