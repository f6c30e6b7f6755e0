"""The quality of a field: measured, judged, drawn and told."""

from musedeep.qc.assess import Assessment, assess_field, is_assessed

__all__ = ["Assessment", "assess_field", "is_assessed"]
