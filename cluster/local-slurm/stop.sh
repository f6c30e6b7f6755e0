#!/usr/bin/env bash
# Stop the cluster start.sh put in DIR; ends only processes it started
# (by the pid files in DIR/run, each checked to be that program). Logs stay;
# --purge removes the whole folder.
set -uo pipefail
PURGE=; [ "${1:-}" = --purge ] && { PURGE=1; shift; }
DIR=${1:-${MUSE_SLURM_DIR:-${TMPDIR:-/tmp}/musedeep-slurm-$(id -u)}}
say() { printf 'stop: %s\n' "$*"; }
[ -d "$DIR" ] || { say "nothing in $DIR"; exit 0; }
export SLURM_CONF=$DIR/slurm.conf

end() { # pidfile name
  local pid; [ -s "$1" ] || return 0; pid=$(cat "$1")
  if [ -r "/proc/$pid/cmdline" ] && tr '\0' ' ' <"/proc/$pid/cmdline" | grep -q "$2.*$DIR"; then
    kill "$pid" 2>/dev/null
    for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
    kill -0 "$pid" 2>/dev/null && { say "$2 $pid did not end, SIGKILL"; kill -9 "$pid"; }
    say "ended $2 $pid"
  fi
  rm -f "$1"
}
# Jobs first, while the cluster can still end them.
if [ -s "$DIR/run/slurmctld.pid" ] && timeout 5 squeue -h >/dev/null 2>&1; then
  timeout 10 squeue -h -o %i | xargs -r timeout 10 scancel 2>/dev/null
  for _ in $(seq 50); do [ -z "$(timeout 5 squeue -h 2>/dev/null)" ] && break; sleep 0.2; done
fi
for p in "$DIR"/run/slurmd-*.pid; do [ -e "$p" ] && end "$p" slurmd; done
end "$DIR/run/slurmctld.pid" slurmctld
end "$DIR/run/munged.pid" munged
[ -n "$PURGE" ] && rm -rf "$DIR" && say "removed $DIR"
exit 0
