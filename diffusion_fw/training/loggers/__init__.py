"""Loggers and the page of their builders."""
