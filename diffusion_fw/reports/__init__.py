"""The page that compares runs: folders are read, differences found, pictures fitted, and one HTML file written."""
