"""The Hugging Face hub: exact identities of content, and what to fetch."""
