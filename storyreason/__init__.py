"""Grounded stories by vision-language models: read, check, score and show them; train, ask and serve the models."""
