"""What a deployment would do under a load, in virtual time: ``adasd simulate`` and ``adasd plan``."""
