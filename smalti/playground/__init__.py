"""A page to try a tokenizer: reconstructions, tokens as a picture, and what happens when tokens change.

`token_picture`, `edits` and `session` are plain functions and classes; only `page` needs gradio.
"""
