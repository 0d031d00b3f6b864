"""Engines of others behind the policy server's contract: vLLM and SGLang, over HTTP."""
