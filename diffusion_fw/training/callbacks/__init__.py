"""Callbacks and the page of their builders."""
