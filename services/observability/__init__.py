"""What operators see: events of the library and the services become metrics, logs and traces."""
