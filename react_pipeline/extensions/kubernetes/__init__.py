"""Runs in Kubernetes: what the pod of each run asks for."""
