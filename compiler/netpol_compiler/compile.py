"""The compiler's front door for whole clusters; see `pipeline` for one change at a time."""

from netpol_compiler.pipeline import Pipeline, compile_cluster

__all__ = ["Pipeline", "compile_cluster"]
