"""What happens when a workload meets a deployment: physics, policy and mechanics."""
