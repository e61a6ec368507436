"""Objects into the pipeline: from kopf, reflectors and audits, or from a folder."""
