"""Methods of speculative decoding: when drafting stops (``drafting``) and what is accepted (``acceptance``)."""
