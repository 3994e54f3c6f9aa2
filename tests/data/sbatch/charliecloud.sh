#!/bin/bash

# Parameters
#SBATCH --cpus-per-task=1
#SBATCH --error='/scratch/u/run a/submissions/20260101-000000-abcdef/%j_0_log.err'
#SBATCH --job-name=healthgym-charliecloud
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output='/scratch/u/run a/submissions/20260101-000000-abcdef/%j_0_log.out'
#SBATCH --requeue
#SBATCH --signal=USR2@120
#SBATCH --time=60

# setup
export HEALTHGYM_FIRST_NODE=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export USER="${USER:-$(id -un)}"

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output '/scratch/u/run a/submissions/20260101-000000-abcdef/%j_%t_log.out' --error '/scratch/u/run a/submissions/20260101-000000-abcdef/%j_%t_log.err' --kill-on-bad-exit=1 --cpus-per-task=1 ch-run -b /projects/p/data:/projects/p/data -b '/scratch/u/run a/submissions/20260101-000000-abcdef:/scratch/u/run a/submissions/20260101-000000-abcdef' /i/h -- /venv/python -u -m submitit.core._submit '/scratch/u/run a/submissions/20260101-000000-abcdef'


# teardown
status=$?
submission='/scratch/u/run a/submissions/20260101-000000-abcdef'
restarts=3
# In the batch script, on the host, after the work: queue the job again where that is right.
#   status      what srun ended with: 85 means "saved, to be resumed", 128 + N "killed by signal N"
#   submission  the folder of this submission's records
#   restarts    how many crashes in a row are forgiven
# A cancelled job does not come here (scancel ends this shell), so a cancel stays a cancel.
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}}
job=${job:-$SLURM_JOB_ID}
life=${SLURM_RESTART_COUNT:-0}
again=no
case $status in
    85 | 138 | 140 | 143) again=yes ;; # asked to stop: after a save, or before the handlers stood
    129 | 13? | 14? | 15? | 16?)
        if grep -qs '"state": "interrupted"' "$submission/state-$job.json" &&
            grep -qs "\"life\": $life," "$submission/state-$job.json"; then
            again=yes # rank 0 had saved; another rank was killed while leaving
        elif mkdir -p "$submission" && echo "life $life: status $status" >>"$submission/crashes-$job"; then
            [ "$(wc -l <"$submission/crashes-$job")" -gt "$restarts" ] || again=yes
        fi
        ;;
esac
if [ "$again" = yes ]; then
    # After a lost node the scheduler has started the job elsewhere: then this shell has no say.
    now=$(scontrol show job "$job" | sed -n 's/.* Restarts=\([0-9]*\).*/\1/p')
    if [ "${now:-$life}" != "$life" ]; then
        echo "healthgym: job $job lives on elsewhere (life $now); this one (life $life) ends." >&2
    elif scontrol requeue "$job"; then
        sleep 600 # the scheduler ends this shell; leaving first could count as the job's end
    else
        echo "healthgym: job $job could not be requeued; submit the same command again to resume." >&2
    fi
fi
exit "$status"
