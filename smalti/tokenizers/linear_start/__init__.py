"""Starting the training of a tokenizer as a linear codec: principal components, scalar quantizers and least squares."""
