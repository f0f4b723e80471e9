"""Replicas that come and go: autoscaling policies, the signals they see, failures and repair."""
