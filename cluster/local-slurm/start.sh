#!/usr/bin/env bash
# Start a throw-away Slurm cluster on this machine: no systemd, no cgroups, no
# database, nothing written outside one folder, all sockets on 127.0.0.1.
# Works as root and as an ordinary user (then only that user can submit).
#
#   start.sh [DIR]          DIR defaults to ${MUSE_SLURM_DIR:-$TMPDIR/musedeep-slurm-$UID}
#   . DIR/env.sh                  sets SLURM_CONF for sinfo, sbatch, ...
#   stop.sh [DIR]
#
# Needs Debian packages: slurmctld slurmd slurm-client munge (~4 MB download).
# Idempotent: a second call with the cluster up says so and changes nothing.
# Tunables: MUSE_SLURM_NODES (3), MUSE_SLURM_CPUS (1 per node), MUSE_SLURM_MEM
# (MB per node, 4000), MUSE_SLURM_PORT (base port, 17817).
set -euo pipefail
DIR=${1:-${MUSE_SLURM_DIR:-${TMPDIR:-/tmp}/musedeep-slurm-$(id -u)}}
NODES=${MUSE_SLURM_NODES:-3} CPUS=${MUSE_SLURM_CPUS:-1} MEM=${MUSE_SLURM_MEM:-4000}
PORT=${MUSE_SLURM_PORT:-17817}
PATH=$PATH:/usr/sbin:/sbin
say() { printf 'start: %s\n' "$*"; }
die() { say "$*" >&2; exit 1; }

for exe in munged munge slurmctld slurmd sinfo sbatch; do
  command -v $exe >/dev/null || die "no $exe: apt-get install -y slurmctld slurmd slurm-client munge"
done

# A pid counts as ours only if it is alive and is the program we started.
ours() { # pidfile name
  local pid; [ -s "$1" ] && pid=$(cat "$1") && [ -r /proc/$pid/cmdline ] \
    && tr '\0' ' ' </proc/$pid/cmdline | grep -q "$2.*$DIR"; }

if ours "$DIR/run/munged.pid" munged && ours "$DIR/run/slurmctld.pid" slurmctld \
   && SLURM_CONF=$DIR/slurm.conf timeout 10 sinfo -h >/dev/null 2>&1; then
  say "already up in $DIR"; exit 0
fi
# Anything half up from an earlier try goes first.
[ -d "$DIR" ] && "$(dirname "$(readlink -f "$0")")/stop.sh" "$DIR" >/dev/null 2>&1 || true

umask 022
mkdir -p "$DIR"/{run,log,state,spool,munge}
chmod 755 "$DIR" "$DIR"/*/ ; chmod 700 "$DIR/munge"
[ -f "$DIR/munge/key" ] || { dd if=/dev/urandom of="$DIR/munge/key" bs=128 count=1 status=none; chmod 400 "$DIR/munge/key"; }

: >"$DIR/plugstack.conf"
HOST=$(hostname -s) USER_=$(id -un)
NODELIST="n[1-$NODES]"; [ "$NODES" = 1 ] && NODELIST=n1
cat >"$DIR/slurm.conf" <<CONF
ClusterName=musetest
SlurmctldHost=$HOST(127.0.0.1)
SlurmUser=$USER_
SlurmdUser=$USER_
AuthType=auth/munge
# cred_expire is also how long a job that is queued again has to wait.
AuthInfo=socket=$DIR/run/munge.sock,cred_expire=20
CredType=cred/munge
SlurmctldPort=$PORT
SlurmctldPidFile=$DIR/run/slurmctld.pid
SlurmdPidFile=$DIR/run/slurmd-%n.pid
SlurmctldLogFile=$DIR/log/slurmctld.log
SlurmdLogFile=$DIR/log/slurmd-%n.log
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool/%n
CommunicationParameters=NoAddrCache,NoCtldInAddrAny,NoInAddrAny,DisableIPv6
PlugStackConfig=$DIR/plugstack.conf
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=2
JobAcctGatherParams=OverMemoryKill,UsePss
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=$DIR/log/jobcomp.log
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=$((MEM / CPUS))
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=2,sched_min_interval=0
ReturnToService=2
KillWait=2
InactiveLimit=0
MinJobAge=300
SlurmctldTimeout=30
SlurmdTimeout=60
SlurmctldDebug=info
SlurmdDebug=info
SlurmdParameters=config_overrides
CONF
for ((i = 1; i <= NODES; i++)); do
  echo "NodeName=n$i NodeHostname=$HOST NodeAddr=127.0.0.1 Port=$((PORT + i)) CPUs=$CPUS RealMemory=$MEM State=UNKNOWN" >>"$DIR/slurm.conf"
done
echo "PartitionName=debug Nodes=$NODELIST Default=YES MaxTime=INFINITE DefaultTime=60 State=UP" >>"$DIR/slurm.conf"
printf 'export SLURM_CONF=%q\n' "$DIR/slurm.conf" >"$DIR/env.sh"
export SLURM_CONF=$DIR/slurm.conf

say "munged"
munged --force --key-file="$DIR/munge/key" --socket="$DIR/run/munge.sock" \
  --pid-file="$DIR/run/munged.pid" --log-file="$DIR/log/munged.log" \
  --seed-file="$DIR/munge/seed" --num-threads=2 2>>"$DIR/log/munged.err"
munge -n -S "$DIR/run/munge.sock" | unmunge -S "$DIR/run/munge.sock" >/dev/null || die "munge does not work, see $DIR/log/munged.log"

say "slurmctld"
slurmctld -c -f "$DIR/slurm.conf" 2>>"$DIR/log/slurmctld.err"
for ((i = 1; i <= NODES; i++)); do
  say "slurmd n$i"
  mkdir -p "$DIR/spool/n$i"
  slurmd -c -N "n$i" -f "$DIR/slurm.conf" 2>>"$DIR/log/slurmd-n$i.err"
done

for ((t = 0; t < 150; t++)); do
  up=$(sinfo -h -N -t idle -o %N 2>/dev/null | wc -l)
  [ "$up" = "$NODES" ] && { say "up: $NODES nodes x $CPUS CPU in $DIR"; sinfo; exit 0; }
  sleep 0.2
done
sinfo -N -l >&2 || true; tail -n 20 "$DIR"/log/*.log >&2
die "not all nodes idle after 30 s, see $DIR/log"
