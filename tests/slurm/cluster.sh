#!/usr/bin/env bash
# Real Slurm clusters of two nodes each on this one host, for the tests. Run as root.
#
#   cluster.sh start COUNT        install Slurm if needed (Debian's packages); start clusters 0 to COUNT - 1, try them
#   cluster.sh stop               cancel all jobs, stop the daemons of all clusters, delete their state
#   cluster.sh NUMBER user-signal on|off   whether Slurm sends a job's --signal at preemption too
#   cluster.sh NUMBER kill-node NAME       SIGKILL a node's daemon; its tasks live on
#   cluster.sh NUMBER start-node NAME      start it again
#
# Each process of pytest has a cluster of its own, since a test's preemption stops all other jobs of a cluster.
# Partitions: `grace` (GraceTime 4 s), `nograce` (0), both preempted by requeueing when `high` wants
# the nodes. No accounting, so sacct fails. Nothing outside $HEALTHGYM_SLURM_DIR is touched: each cluster has
# ports, job numbers, a munge socket and a key of its own, and clients find it by
# SLURM_CONF=$HEALTHGYM_SLURM_DIR/NUMBER/slurm.conf.
set -euo pipefail

ALL=${HEALTHGYM_SLURM_DIR:-/var/tmp/healthgym-slurm}
NODES=(hg1 hg2)
HOST=$(hostname -s)
export DEBIAN_FRONTEND=noninteractive LC_ALL=C

choose() { # a cluster's number
    NUMBER=$1 DIR=$ALL/$1
    export SLURM_CONF=$DIR/slurm.conf
}

say() { printf 'cluster.sh: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

install_packages() {
    command -v slurmctld >/dev/null && command -v slurmd >/dev/null && command -v munged >/dev/null && return
    say "installing slurm-wlm and munge"
    apt-get -o DPkg::Lock::Timeout=300 update -qq || say "apt-get update failed; trying the lists at hand"
    apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends slurm-wlm munge \
        >"$DIR/log/apt.log" 2>&1 || { tail -20 "$DIR/log/apt.log" >&2; die "the installation failed"; }
}

wait_until() { # seconds, what, command...: poll five times a second
    local tries=$(($1 * 5)) what=$2
    shift 2
    while ((tries-- > 0)); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.2
    done
    die "waited in vain for $what; logs are in $DIR/log"
}

write_configuration() { # on|off: the user signal
    local signal='' node port=$((26820 + 10 * NUMBER))
    # Slurm 22.05 reads this spelling only; later versions know it too, beside PreemptParameters.
    [ "$1" = on ] && signal='SlurmctldParameters=preempt_send_user_signal'
    {
        cat <<CONF
ClusterName=healthgym$NUMBER
SlurmctldHost=$HOST(127.0.0.1)
SlurmctldPort=$((26817 + 10 * NUMBER))
FirstJobId=$((1 + 1000 * NUMBER))
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$DIR/munge.socket,cred_expire=5
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool/%n
SlurmctldPidFile=$DIR/slurmctld.pid
SlurmdPidFile=$DIR/%n.pid
SlurmctldLogFile=$DIR/log/slurmctld.log
SlurmdLogFile=$DIR/log/%n.log
SlurmdParameters=config_overrides
ReturnToService=2
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=1
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
$signal
JobRequeue=1
KillWait=5
MinJobAge=7200
SlurmdTimeout=10
CONF
        for node in "${NODES[@]}"; do
            echo "NodeName=$node NodeHostname=$HOST NodeAddr=127.0.0.1 Port=$((++port)) CPUs=4 RealMemory=4000"
        done
        local all
        all=$(IFS=,; echo "${NODES[*]}")
        echo "PartitionName=grace Nodes=$all Default=YES DefaultTime=10 PriorityTier=1 PreemptMode=REQUEUE GraceTime=4"
        echo "PartitionName=nograce Nodes=$all DefaultTime=10 PriorityTier=1 PreemptMode=REQUEUE GraceTime=0"
        echo "PartitionName=high Nodes=$all DefaultTime=10 PriorityTier=10 PreemptMode=OFF"
    } | sed '/^$/d' >"$SLURM_CONF.new"
    mv "$SLURM_CONF.new" "$SLURM_CONF"
}

start_munge() {
    [ -s "$DIR/munge.key" ] || (umask 077; head -c 128 /dev/urandom >"$DIR/munge.key")
    munged --force --socket="$DIR/munge.socket" --key-file="$DIR/munge.key" --pid-file="$DIR/munged.pid" \
        --log-file="$DIR/log/munged.log" --seed-file="$DIR/munge.seed" 2>>"$DIR/log/munged.log"
    wait_until 10 munge munge --no-input --socket="$DIR/munge.socket"
}

# A daemon is ours and alive when its pid file names a process of that name.
alive() { [ -s "$DIR/$1.pid" ] && [ "$(cat "/proc/$(cat "$DIR/$1.pid")/comm" 2>/dev/null)" = "$2" ]; }
gone() { ! alive "$1" "$2"; }

end() { # pid file's stem, process name, signal
    alive "$1" "$2" && kill "-$3" "$(cat "$DIR/$1.pid")"
    wait_until 10 "the end of $2" gone "$1" "$2"
    rm -f "$DIR/$1.pid"
}

start_node() {
    mkdir -p "$DIR/spool/$1"
    alive "$1" slurmd || slurmd -N "$1"
}

all_idle() {
    local states
    states=$(sinfo --noheader --Node --partition=grace --format=%T) && [ "$(sort -u <<<"$states")" = idle ]
}

start() {
    mkdir -p "$DIR"/{log,state,spool}
    chmod 755 "$DIR"
    install_packages
    write_configuration off
    alive munged munged || start_munge
    alive slurmctld slurmctld || slurmctld
    wait_until 20 slurmctld scontrol ping
    local node
    for node in "${NODES[@]}"; do start_node "$node"; done
    wait_until 30 "idle nodes" all_idle
    timeout 30 srun --quiet --partition=grace --nodes=2 --ntasks-per-node=1 true || die "a step on both nodes failed"
    wait_until 15 "idle nodes" all_idle
    say "up; SLURM_CONF=$SLURM_CONF"
}

stop() {
    if alive slurmctld slurmctld; then
        timeout 10 scancel --full --user=root || true
        local tries=40
        while ((tries-- > 0)) && [ -n "$(squeue --noheader)" ]; do sleep 0.5; done
    fi
    local node
    for node in "${NODES[@]}"; do end "$node" slurmd TERM; done
    end slurmctld slurmctld TERM
    end munged munged TERM
    rm -rf "$DIR/state" "$DIR/spool"
    say "stopped"
}

[ "$(id -u)" = 0 ] || die "run as root: Slurm's daemons start jobs as other users"
case "${1:-} ${2:-}" in
    "start "[0-9]*) for ((number = 0; number < $2; number++)); do choose "$number" && start; done ;;
    "stop ")
        failed=0
        for folder in "$ALL"/[0-9]*/; do (choose "$(basename "$folder")" && stop) || failed=1; done
        exit $failed
        ;;
    [0-9]*" user-signal") choose "$1" && write_configuration "$3" && scontrol reconfigure ;;
    [0-9]*" kill-node") choose "$1" && end "$3" slurmd KILL ;;
    [0-9]*" start-node") choose "$1" && start_node "$3" && wait_until 30 "idle nodes" all_idle ;;
    *) sed -n '2,9p' "$0" && exit 2 ;;
esac
