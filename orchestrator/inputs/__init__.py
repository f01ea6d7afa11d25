"""Inputs: names become models, texts and tokens, checked before anything runs.

models.py             models with their texts
known_models.py       a model's name in results, and the names and identities that a store knows
checkpoint_checks.py  the weights of a model against its config, by headers alone
weight_values.py      values of weights: NaN, infinity, zeros that are there already
tokenizer_checks.py   a tokenizer against the embedding
text_names.py         the name of each role's text: the flag's, else the default
texts.py              each role's text with its windows
task_names.py         zero-shot tasks
tokens.py             token files in the store, which workers read instead of texts
about_tokens.py       tokens of evaluated texts for a dry run, by samples
training_tokens.py    those of training texts, made while trials run
token_files.py        their format, with a hash that reveals damage
token_reader.py       workers' way to them; damaged ones are made again
"""
