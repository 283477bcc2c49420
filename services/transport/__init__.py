"""The wire: the only importer of generated protobuf code; hands frozen messages to both sides."""
