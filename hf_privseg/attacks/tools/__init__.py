"""What several attacks share: blocks, second moments, image priors, matching, alignment, metrics."""
