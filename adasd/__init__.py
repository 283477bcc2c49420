"""AdaSD Serve: adaptive speculative decoding. This package is the library; it needs no Ray."""
