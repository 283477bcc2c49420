"""The load-test runner behind ``adasd bench``: scenarios, an open-loop generator, figures, reports."""
