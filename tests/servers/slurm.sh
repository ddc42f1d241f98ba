#!/bin/bash
# A Slurm of N virtual nodes of 2 CPUs on loopback. usage: slurm.sh start DIR N PORT | stop DIR; PORT and N + 2 after it.
set -eu
cmd=$1; D=$2; N=${3:-2}; PORT=${4:-16817}
if [ "$cmd" = stop ]; then
  for f in "$D"/slurmd-*.pid "$D/slurmctld.pid" "$D/munged.pid"; do [ -f "$f" ] && kill "$(cat "$f")" 2> /dev/null || true; done
  exit 0
fi
rm -rf "$D"; mkdir -p "$D"/{state,spool,log,munge}; chmod 755 "$D"; H=$(hostname -s)
trap 'tail -n 20 "$D"/log/* "$D"/munge/*.log 2> /dev/null' ERR  # why it did not start
dd if=/dev/urandom of="$D/munge/munge.key" bs=1 count=1024 2> /dev/null
chmod 400 "$D/munge/munge.key"; chmod 711 "$D/munge"
munged --force -S "$D/munge/munge.socket" --key-file="$D/munge/munge.key" --pid-file="$D/munged.pid" \
  --log-file="$D/munge/munged.log" --seed-file="$D/munge/seed"
{
  cat << X
ClusterName=fm
SlurmctldHost=$H(127.0.0.1)
SlurmctldPort=$PORT
AuthType=auth/munge
AuthInfo=socket=$D/munge/munge.socket
CryptoType=crypto/munge
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
StateSaveLocation=$D/state
SlurmdSpoolDir=$D/spool/%n
SlurmctldPidFile=$D/slurmctld.pid
SlurmdPidFile=$D/slurmd-%n.pid
SlurmctldLogFile=$D/log/slurmctld.log
SlurmdLogFile=$D/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmctldParameters=enable_configless
KillWait=5
MinJobAge=3600
SchedulerParameters=sched_min_interval=100000,batch_sched_delay=1
InactiveLimit=0
SlurmdTimeout=30
PartitionName=main Nodes=n[1-$N] Default=YES MaxTime=INFINITE State=UP
X
  for i in $(seq 1 "$N"); do
    echo "NodeName=n$i NodeHostname=$H NodeAddr=127.0.0.1 Port=$((PORT + 1 + i)) CPUs=2 RealMemory=1000 State=UNKNOWN"
  done
} > "$D/slurm.conf"
export SLURM_CONF=$D/slurm.conf
slurmctld -f "$D/slurm.conf"
for i in $(seq 1 "$N"); do mkdir -p "$D/spool/n$i"; slurmd -f "$D/slurm.conf" -N "n$i"; done
for _ in $(seq 1 150); do
  [ "$(sinfo -h -o '%t %D' 2> /dev/null)" = "idle $N" ] && exit 0
  sleep 0.2
done
sinfo
exit 1
