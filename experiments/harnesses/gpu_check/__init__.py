"""Parts of the GPU check. `../check_gpu.py` is its command.

In the order of the flow:

    parts.py          the parts by name: their modules and time limits
    sizes.py          sizes of the work: on a GPU, in a rehearsal, in tests
    processes.py      runs each part in a process of its own, until a limit
    case_process.py   the program of such a process: runs the cases of one part
    findings.py       a case's finding, and the row that becomes of it
    environment.py    part: device, driver, torch, nccl
    embedded.py       the embedded model on a device and on the CPU, compared
    pruning.py        part: methods and options on the embedded model
    training.py       part: objectives, memory savers and checkpoints on the embedded model
    sweeps.py         part: sweeps through Ray
    solvers.py        part: seconds of solves at the shapes of known models
    random_models.py  random models of known shapes, and the memory expected for them
    whole_models.py   part: seconds and memory of whole models
    token_rates.py    part: tokens a second of training, evaluation and decoding
    table.py page.py  the table in the terminal, and the page
"""
