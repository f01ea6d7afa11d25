"""The Hugging Face hub.

- `identity.py`: the identity of content, as a hub commit or a hash of local files
- `downloads.py`: the commands that fetch missing content, for messages
"""
