"""Alerts: messages to people about failures, decisions and a full disk."""
