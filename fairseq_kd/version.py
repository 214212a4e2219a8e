"""The version of fairseq_kd; it goes into every manifest and result."""

__version__ = "0.1.0"
