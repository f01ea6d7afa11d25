"""Causal language models: which model a name means, its blocks and prunable matrices, its files.

This is the only package that knows model families and where a prunable weight is stored.

    families.py      facts of families that running a model cannot show
    trace.py         a forward pass without memory: which part is called with what
    anatomy.py       blocks, their calls, halves and shared inputs, found by a trace
    sources.py       names -> directories or hub commits
    local_identity.py  a local model's identity: weights, tokenizer, keys that change numbers
    checkpoint_files.py  JSON objects and headers of safetensors, as they must be
    folder_kinds.py  folders that hold something else, and what to give instead
    config_checks.py  sizes, heads, dtype and kind in a config
    configs.py       configs from a source
    tokenizers.py    tokenizers from a source
    loading.py       models with their weights from a source
    weight_files.py  a model directory read by slices, one weight at a time
    conversion.py    names and shapes in files against those in memory
    facts.py         shapes and counts that plans need
    description.py   these facts, found from the config alone
    blocks.py        decoder blocks and their matrices
    calls.py         arguments of blocks, and one block run by itself
    block_check.py   blocks run one by one against the whole model
    pieces.py        matrices that a module holds: one, or those of all experts of a layer
    experts.py       inputs of experts: tokens by the router, and what down_proj reads
    matrices.py      one prunable matrix: read, write, observe its input
    sharding.py      a model sharded over ranks by FSDP2
    mask_files.py    masks and their bit-packed file
    residence.py     a model in memory, or streamed from files one block at a time
    weight_writer.py safetensors written one tensor at a time
    model_writer.py  the new files of a streamed model, one shard a block
    hidden_states.py hidden states between two of its blocks, on the host or on disk
    semi_structured.py  2:4 weights for the sparse tensor cores of a GPU
    saving.py        a pruned model written as a Hugging Face directory
"""
