"""Reports: one HTML file each, without network, for light and dark screens, phones and paper."""
