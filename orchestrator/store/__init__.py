"""Everything that sweeps share in an out-dir. A thing in the store exists whole or not at all.

The out-dir is a local directory or a URI. Below it:

    sweep-store.json          marks the directory as a store
    stages/ID/manifest.json   the stage's fields, metrics, and files with their hashes
    stages/ID/...             a Hugging Face directory if the stage has weights; below a URI each
                              upload has a folder of its own, and the manifest names one of them
    rows/KEY.json             one row of results for each cell and evaluation text
    tokens/ID.safetensors     tokenised texts (orchestrator/inputs/tokens.py)
    checkpoints/ID/STEP/...   half-done training or pruning of a stage, with a manifest of the same
                              kind; one of pruning adds blocks to an earlier one
    sweeps/ID.json            the record of a sweep (orchestrator/results/record.py)
    pulse/ID.json             the last sign of life of a sweep (orchestrator/cluster/pulse.py)
    set-aside/...             directories that were damaged; below a URI they are deleted
    .scratch/...              directories that are being written; below a URI on the local disk

Files are written aside. The manifest comes last (locally: one rename). A reader that finds a
manifest therefore finds every file that the manifest names.

The files of this package, from the top:

    store.py        `Store`: one out-dir, with the parts below as its attributes
    stages.py       `Stages`: list, check, set aside; drop weights
    checkpoints.py  `Checkpoints`: the newest one with what it adds to, a private copy, removal
    rows.py         `Rows`: put, read, delete
    published.py    `Published`: one directory with a manifest; publish, check, set aside, open
    manifests.py    the manifest file itself
    scratch.py      `Scratch`: directories to write in before files are published
    files.py        `Files`: reads, writes and copies below a root, on any filesystem
"""
