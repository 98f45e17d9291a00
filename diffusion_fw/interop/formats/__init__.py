"""One module for each code base whose weights can be read and written."""
