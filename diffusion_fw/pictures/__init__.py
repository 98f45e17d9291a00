"""All pictures, as PNG files."""
