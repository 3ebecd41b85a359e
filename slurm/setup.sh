# Sourced by every job script: finds the repository and its Python.
#
# WORKSHOP_ROOT   the repository; default: the folder sbatch was called in
# WORKSHOP_SETUP  a file with the site's own lines (see slurm/profiles)
WORKSHOP_ROOT=${WORKSHOP_ROOT:-$SLURM_SUBMIT_DIR}
export WORKSHOP_ROOT
cd "$WORKSHOP_ROOT" || exit 2
if [ -n "${WORKSHOP_SETUP:-}" ]; then
  . "$WORKSHOP_SETUP"
fi
if [ -x .venv/bin/python3 ]; then
  export PATH="$WORKSHOP_ROOT/.venv/bin:$PATH"
fi
# .slurm/site holds the wheels of a bundle, on a host without network.
ours="$WORKSHOP_ROOT/code:$WORKSHOP_ROOT/.slurm/site"
export PYTHONPATH="$ours${PYTHONPATH:+:$PYTHONPATH}"
# A rank's threads share the CPUs of its node with the other ranks.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# Output appears as it is written, also in a file.
export PYTHONUNBUFFERED=1
