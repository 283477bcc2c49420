"""Drafts without a model: what follows is looked up in the text so far. No torch, no network."""
