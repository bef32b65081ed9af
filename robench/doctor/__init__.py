"""Whether attacks are what they claim to be: asked of models on which the answer is known."""
