#!/bin/sh
# torchrun --standalone --max-restarts, torch 2.13.0, gloo: all starts share one store, and the workers' keys have no
# prefix for the start. So a process of the second start that comes first reads the address that the dead process left
# there: "Connection refused", and the restart is used up. Rank 1 comes 5 s later here, so that it happens each time.
# With TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 each start has a store of its own, and the restart works.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q torch==2.13.0 numpy
cd "$work"
cat > train.py <<'PY'
import datetime, os, time

import torch.distributed as dist

start, rank = int(os.environ["TORCHELASTIC_RESTART_COUNT"]), int(os.environ["RANK"])
if start and rank:
    time.sleep(5)
dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=60))
dist.barrier()
if not start and rank:
    os._exit(3)
dist.barrier()
if rank == 0:
    print("start", start, "is through", flush=True)
PY
run() {
    timeout 300 venv/bin/python -m torch.distributed.run --standalone --nproc_per_node 2 --max-restarts 1 train.py \
        > out 2> err && echo "restarted" || echo "failed: $(grep -o 'SO_ERROR: [A-Za-z ]*' err | head -1)"
}
shared=$(run)
separate=$(TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1; export TORCH_DISABLE_SHARE_RDZV_TCP_STORE; run)
echo "one store for all starts: $shared"
echo "a store for each start:   $separate"
[ "$shared" = "failed: SO_ERROR: Connection refused" ] && [ "$separate" = "restarted" ] || { echo "the behaviour changed"; exit 1; }
