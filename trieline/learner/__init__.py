"""The learner: trees become tries, tries become gradients, gradients become weights."""
