"""Methods of speculative decoding: when a draft stops (``drafting``) and what is accepted (``acceptance``)."""
