#!/usr/bin/env bash
# Example: one worker of a Prefect pool as a Slurm job (docs/pools.md). sbatch --array=1-8 docs/pools/slurm.sh gpu
#SBATCH --job-name=optogram-worker
#SBATCH --time=24:00:00
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --gres=gpu:1
set -euo pipefail
pool=${1:?the pool: cpu or gpu}
clone=${TMPDIR:-/tmp}/optogram-$SLURM_JOB_ID
git clone -q "${OPTOGRAM_REPOSITORY:?address of the git repository}" "$clone"
cd "$clone"
make .venv/installed
cp "${DVC_CONFIG_LOCAL:?a .dvc/config.local with the credentials of the DVC remote}" .dvc/config.local
export OPTOGRAM_CLONE=$clone
exec .venv/bin/prefect worker start --pool "$pool" --type process --limit 1
