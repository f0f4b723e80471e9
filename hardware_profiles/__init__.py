"""What we can serve on: device, node and cluster profiles, each number with its source."""
