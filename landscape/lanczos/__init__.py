"""Lanczos: a Krylov space from a start (``krylov``), and eigenpairs from both ends (``eigenpairs``)."""

from landscape.lanczos.eigenpairs import EigenOptions, Eigenpairs, eigenpairs, least_vectors, most_vectors
from landscape.lanczos.krylov import Krylov, krylov

__all__ = ["EigenOptions", "Eigenpairs", "Krylov", "eigenpairs", "krylov", "least_vectors", "most_vectors"]
