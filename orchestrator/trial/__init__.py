"""A trial: the stages that one worker group walks, without Ray."""
