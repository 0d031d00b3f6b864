"""The HTTP APIs that agents speak: what is asked, replies whole and streamed, refusals, in each own form."""
