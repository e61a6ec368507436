"""npctl's custom resources: their names and forms, and what can be concluded from them alone."""
