"""The compiler's front door for whole clusters; see `pipeline` for one change at a time."""

from netpol_compiler.pipeline import Pipeline, compile_cluster, pipeline_of

__all__ = ["Pipeline", "compile_cluster", "pipeline_of"]
