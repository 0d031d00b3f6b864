"""Several processes that compute one gradient: how they find each other, talk, and notice a death."""
