#!/usr/bin/env bash
# A Slurm array whose tasks make one shard set together:
#
#     sbatch --array 0-31 examples/cluster/slurm.sh 's3://photos/{000000..001023}.tar' s3://features/set \
#         --model torchvision:resnet50 --weights DEFAULT --layer layer3:dct1 --workers 8
#
# More than one task a node, each with its GPU: add --ntasks-per-node 8 --gpus-per-task 1.
#SBATCH --job-name=fmshards
#SBATCH --cpus-per-task=8
#SBATCH --requeue
# A minute before time is up, and where the task is preempted: the shard in work is ended, and no other one begun.
#SBATCH --signal=USR1@60
#SBATCH --open-mode=append

rc=0
srun fmshards extract "$@" || rc=$?
# 75 says that the same is to be run again: stopped before its end, a store that did not answer, a killed worker.
if [ "$rc" = 75 ]; then
  scontrol requeue "${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_}${SLURM_ARRAY_TASK_ID:-$SLURM_JOB_ID}"
fi
exit "$rc"
