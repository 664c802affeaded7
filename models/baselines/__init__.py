"""Retrieval methods that HBI is compared with, on the same encoder."""
