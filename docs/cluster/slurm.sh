#!/usr/bin/env bash
# One search on the nodes of a Slurm allocation: sbatch docs/cluster/slurm.sh acsl lvis_v1_r50_mmdet_1x
# Started again, as after the end of its time, it goes on with the study.
#SBATCH --job-name=lttune
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@300
#SBATCH --output=lttune-%j.log
set -euo pipefail

space=$1
setting=$2
shared=${LTTUNE_SHARED_FOLDER:-$HOME/lttune}
source "${LTTUNE_VENV:-$HOME/lttune/.venv}/bin/activate"

# A token for this allocation, on a disk that its nodes see, readable by this account alone. srun hands the path on.
umask 077
mkdir -p "$shared/tokens"
export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH="$shared/tokens/$SLURM_JOB_ID"
python -c 'import secrets; print(secrets.token_hex(32))' >"$RAY_AUTH_TOKEN_PATH"
trap 'rm -f "$RAY_AUTH_TOKEN_PATH"' EXIT

export RAY_USAGE_STATS_ENABLED=0 OMP_NUM_THREADS=1
export LTTUNE_CACHE=${LTTUNE_CACHE:-${TMPDIR:-/tmp}/lttune} LTTUNE_CACHE_QUOTA=${LTTUNE_CACHE_QUOTA:-500GB}

head=$(hostname)
# Allocations share nodes: a port that belongs to this one.
port=$((20000 + SLURM_JOB_ID % 20000))

srun --nodes=1 --ntasks=1 --nodelist="$head" ray start --head --port="$port" --include-dashboard=false --block &
sleep 20
if ((SLURM_JOB_NUM_NODES > 1)); then
	srun --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks=$((SLURM_JOB_NUM_NODES - 1)) --exclude="$head" \
		ray start --address="$head:$port" --block &
fi

if [[ -f $shared/runs/$space/spec.yaml ]]; then
	lttune resume "$space" --address "$head:$port" --out "$shared/runs" &
else
	lttune search "$space" --on "$setting" --study "$space" --data-root "$shared/data" \
		--address "$head:$port" --out "$shared/runs" &
fi
search=$!
# Slurm's TERM, five minutes before the end, reaches this script: the search ends in order, and its study can be resumed.
trap 'kill -TERM "$search"' TERM
# The trap breaks off a wait.
while true; do
	wait "$search" && code=0 || code=$?
	kill -0 "$search" 2>/dev/null || exit "$code"
done
