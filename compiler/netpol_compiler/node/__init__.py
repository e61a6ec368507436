"""From the IR and a node's own pods to that node's rules and sets."""

from netpol_compiler.node.compiler import NodeCompiler, compile_node
from netpol_compiler.node.options import AcceptAction, LowerOptions

__all__ = ["AcceptAction", "LowerOptions", "NodeCompiler", "compile_node"]
