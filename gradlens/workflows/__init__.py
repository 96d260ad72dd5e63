"""The stories (see, measure, train, demo): the only place where the parts meet. One file per story."""
