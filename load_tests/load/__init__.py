"""The load tests of ``adasd bench``: scenarios, an open-loop generator, figures, reports."""
