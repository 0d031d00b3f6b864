"""One reader a format of test log: text in, `{test id: Outcome}` out, in time linear in the text."""
