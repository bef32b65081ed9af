"""Conformance checks: every attack runs on models whose exact adversarial distances are known."""
