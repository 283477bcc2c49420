"""The wire format: the only importer of generated protobuf code; both sides exchange frozen messages."""
