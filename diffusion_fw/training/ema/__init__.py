"""How the weights that samples are drawn with follow the weights that are trained."""
