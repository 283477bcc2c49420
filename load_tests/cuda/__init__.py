"""Ten minutes on a card: whether the engine is right there, and where its time goes (``python -m load_tests.cuda``)."""
