# Sourced by the job scripts beside it, after their variables: runs the training, hands Slurm's warning on, decides what comes next.
#
# Slurm warns the job script with USR1 (#SBATCH --signal=B:USR1@…) before the time limit. The script hands the signal to the
# launcher, that to the ranks; they finish the step, write a checkpoint and end with exit code 75. Started again, the
# same command continues from it (--resume auto).

YX_BINARY=${YX_BINARY:-$YX_ROOT/build/yxanul}
YX_MAX_RESTARTS=${YX_MAX_RESTARTS:-100} # a job that was requeued so often is not requeued again
STOPPED=75                              # yxanul's exit code after a stop with a checkpoint

[ -x "$YX_BINARY" ] || { echo "error: there is no program $YX_BINARY: build it, or set YX_BINARY" >&2; exit 9; }
[ -r "$CONFIG" ] || { echo "error: cannot read the configuration $CONFIG (from $PWD): set YX_CONFIG" >&2; exit 3; }

# A rank's threads are the cores that Slurm gave it. srun does not take them over from sbatch by itself.
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
export SRUN_CPUS_PER_TASK=$OMP_NUM_THREADS

warned=0 launcher=
hand_on() {
  warned=1
  echo "$(date '+%F %T') Slurm's warning: stopping with a checkpoint"
  [ -z "$launcher" ] || kill -USR1 "$launcher" 2>/dev/null || true
}
trap hand_on USR1
trap : TERM # scancel: Slurm signals the ranks itself; this script stays until they have ended

# train LAUNCHER… -- [ARGUMENTS…]: yxanul train under this launcher; `code` is its exit code.
train() {
  local launch=()
  while [ "$1" != -- ]; do launch+=("$1"); shift; done
  shift
  local command=("$YX_BINARY" train --config "$CONFIG" --device "$DEVICE" --resume auto)
  [ -z "$RUN_DIR" ] || command+=(--set "run_dir=$RUN_DIR")
  [ $# = 0 ] || command+=("$@")
  echo "$(date '+%F %T') job $SLURM_JOB_ID, start $((${SLURM_RESTART_COUNT:-0} + 1)), nodes $SLURM_JOB_NODELIST: ${launch[*]} ${command[*]}"
  "${launch[@]}" "${command[@]}" &
  launcher=$!
  while kill -0 "$launcher" 2>/dev/null; do # a signal to this script ends its wait, not the launcher
    code=0
    wait "$launcher" || code=$?
  done
  launcher=
  echo "$(date '+%F %T') ended with exit code $code"
}

# Whether the ranks were stopped by the warning. One that came before they listened to it kills them: nothing is lost then.
stopped_by_warning() {
  [ "$warned" = 1 ] && { [ "$code" = $STOPPED ] || [ "$code" = $((128 + 10)) ]; }
}

# Puts this same job back in the queue when it was stopped by the warning; ends the script in every case.
requeue_or_end() {
  if stopped_by_warning && [ "$REQUEUE" = 1 ]; then
    if [ "${SLURM_RESTART_COUNT:-0}" -ge "$YX_MAX_RESTARTS" ]; then
      echo "error: requeued $SLURM_RESTART_COUNT times (YX_MAX_RESTARTS): submit the job again if that is right" >&2
    else
      echo "requeued"
      scontrol requeue "$SLURM_JOB_ID"
    fi
  fi
  exit "$code"
}
