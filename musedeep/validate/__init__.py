"""Whether products follow ESO's standard: the rules as a table, and the checks that hold files against it."""

from musedeep.validate.products import Finding, validate_products

__all__ = ["Finding", "validate_products"]
