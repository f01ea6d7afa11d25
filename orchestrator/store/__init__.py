"""Everything that sweeps share in an out-dir. A thing in the store exists whole or not at all.

The out-dir is a local directory or a URI. Below it:

    sweep-store.json          marks the directory as a store
    stages/ID/manifest.json   the stage's fields, metrics, and files with their hashes
    stages/ID/UPLOAD/...      a Hugging Face directory if the stage has weights; each writer has a
                              folder of its own, and the manifest names one of them as `upload`
                              (older local stores have the files beside the manifest)
    rows/KEY.json             one row of results for each cell and evaluation text
    tokens/ID.safetensors     tokenised texts (orchestrator/inputs/tokens.py)
    checkpoints/ID/STEP/...   half-done training or pruning of a stage, in the same form; one of
                              pruning adds blocks to an earlier one
    claims/STAGE.OWNER        stages that some process computes now
    sweeps/ID.json            the record of a sweep (orchestrator/results/record.py)
    index/FOLDER.arrow        contents of all manifests, or of all rows, below a URI; made again
                              when it is lost, and never needed
    pulse/ID.json             the last sign of life of a sweep (orchestrator/cluster/pulse.py)
    set-aside/...             directories that were damaged; below a URI they are deleted
    .scratch/...              all that is being written, and second names of files that are being
                              read; for a URI in the local folder for temporary files

Files are written aside. The manifest comes last, and is replaced whole. A reader that finds a
manifest therefore finds every file that the manifest names. Dropping weights replaces the manifest
first, and deletes the folder that it named before. All names in the store are data: one that
leads out of the store is refused.

The files of this package, from the top:

    store.py        `Store`: one out-dir, with the parts below as its attributes
    stages.py       `Stages`: list, check, set aside; drop weights
    checkpoints.py  `Checkpoints`: the newest one with what it adds to, a private copy, removal
    rows.py         `Rows`: put, get, read
    claims.py       `Claims`: take a stage before it is computed, so that sweeps share the work
    leftovers.py    files that no manifest names, removed once nobody can be writing them
    published.py    `Published`: one directory with a manifest; publish, drop, check, open
    manifests.py    the manifest file itself
    scratch.py      `Scratch`: directories to write in before files are published
    index.py        `Index`: many small files of a remote store, read with few requests
    files.py        `Files`: reads, writes and copies below a root, on any filesystem
    local_files.py  renames and hashes of local files
    owners.py       names that tell which process made them, and if it still runs
    names.py        names that would lead out of the store
"""
