"""Tasks that are whole repositories, in the formats of SWE-bench."""
