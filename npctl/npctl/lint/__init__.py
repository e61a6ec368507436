"""What `npctl lint` checks, rule by rule."""
