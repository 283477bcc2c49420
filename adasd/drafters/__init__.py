"""Draft sources without a model, which look up what may follow in earlier text; no torch, no network."""
