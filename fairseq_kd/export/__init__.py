"""Export: student checkpoint -> `specification` -> `runtime` (a CTranslate2 folder)."""
