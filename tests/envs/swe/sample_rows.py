"""Rows in the official columns, of invented content."""

import json
from typing import Any

PATCH = """\
diff --git a/tea/pot.py b/tea/pot.py
--- a/tea/pot.py
+++ b/tea/pot.py
@@ -1 +1 @@
-cups = 3
+cups = 4
"""
TEST_PATCH = PATCH.replace("tea/pot.py", "tests/test_pot.py")
FAIL_TO_PASS = ["tests/test_pot.py::test_cups[four cups]", "tests/test_pot.py::test_lid"]
PASS_TO_PASS = ["tests/test_pot.py::test_handle", 'tests/test_pot.py::test_names[it\'s "hot"]']

CLASSIC: dict[str, Any] = {
    "repo": "kitchen/tea",
    "instance_id": "kitchen__tea-7",
    "base_commit": "0123456789abcdef0123456789abcdef01234567",
    "patch": PATCH,
    "test_patch": TEST_PATCH,
    "problem_statement": "The pot holds three cups\r\nIt should hold four. ☕",
    "hints_text": "",
    "created_at": "2024-05-01T10:00:00Z",
    "version": "1.2",
    "FAIL_TO_PASS": json.dumps(FAIL_TO_PASS),
    "PASS_TO_PASS": json.dumps(PASS_TO_PASS),
    "environment_setup_commit": "89abcdef0123456789abcdef0123456789abcdef",
    "difficulty": "15 min - 1 hour",
}
"""As in SWE-bench Verified."""

MODERN: dict[str, Any] = {
    **CLASSIC,
    "instance_id": "kitchen__tea.89abcdef.combine_file__x1",
    "FAIL_TO_PASS": FAIL_TO_PASS,
    "PASS_TO_PASS": PASS_TO_PASS,
    "image": "swebench/sweb.eval.x86_64.kitchen_1776_tea-7:latest",
    "log_parser": "parse_log_pytest",
    "eval_type": "fail_only",
    "eval_script": "#!/bin/bash\nset -uxo pipefail\ncd /testbed\n",
}
"""As swebench 5 takes it."""
