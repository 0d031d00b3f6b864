"""Episodes that somebody else plays: a server for agents that speak the APIs of OpenAI and Anthropic."""
