"""What a model can be told besides the class: text, images, numbers."""
