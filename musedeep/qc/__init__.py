"""The quality of a field: measured, judged, drawn and told."""
