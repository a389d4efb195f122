# Sourced by the job scripts beside it, after their variables: runs the training, hands Slurm's warning on, decides what comes next.
#
# Slurm warns the job script with USR1 (#SBATCH --signal=B:USR1@…) before the time limit. The script hands the signal to the
# launcher, that to the ranks; they finish the step, write a checkpoint and end with exit code 75. Started again, the
# same command continues from it (--resume auto).

YX_BINARY=${YX_BINARY:-$YX_ROOT/build/yxanul}
YX_MAX_RESTARTS=${YX_MAX_RESTARTS:-100} # a job that was requeued so often is not requeued again
YX_RETRY_AFTER=${YX_RETRY_AFTER:-600}   # seconds: a start that loses a rank earlier is not tried again
restarts=${SLURM_RESTART_COUNT:-0}       # so often Slurm has put this job back in the queue
STOPPED=75 LOST=10                      # yxanul's exit codes: stopped with a checkpoint; a rank ended or fell silent

[ -x "$YX_BINARY" ] || { echo "error: there is no program $YX_BINARY: build it, or set YX_BINARY" >&2; exit 9; }
[ -r "$CONFIG" ] || { echo "error: cannot read the configuration $CONFIG (from $PWD): set YX_CONFIG" >&2; exit 3; }

# A rank's threads are the cores that Slurm gave it. srun does not take them over from sbatch by itself.
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
export SRUN_CPUS_PER_TASK=$OMP_NUM_THREADS
# srun: every rank sees all GPUs of its node; one that has ended leaves the others a minute to end too, and to say why.
export SLURM_GPU_BIND=none SLURM_KILL_BAD_EXIT=0 SLURM_WAIT=${SLURM_WAIT:-60}
# mpirun: a node that falls silent is noticed within a minute, not in eight.
export OMPI_MCA_oob_tcp_keepalive_time=30 OMPI_MCA_oob_tcp_keepalive_intvl=10 OMPI_MCA_oob_tcp_keepalive_probes=3

warned=0 cancelled=0 launcher=
on_warning() {
  warned=1
  echo "$(date '+%F %T') Slurm's warning: stopping with a checkpoint"
  [ -z "$launcher" ] || kill -USR1 "$launcher" 2>/dev/null || true
}
on_cancel() { # scancel, or the time limit itself: Slurm signals the ranks too; this script stays until they have ended
  cancelled=1
  echo "$(date '+%F %T') cancelled by Slurm"
}
trap on_warning USR1
trap on_cancel TERM

# train LAUNCHER… -- [ARGUMENTS…]: yxanul train under this launcher; `code` is its exit code.
train() {
  local launch=()
  while [ "$1" != -- ]; do launch+=("$1"); shift; done
  shift
  local command=("$YX_BINARY" train --config "$CONFIG" --device "$DEVICE" --resume auto)
  [ -z "$RUN_DIR" ] || command+=(--set "run_dir=$RUN_DIR")
  [ $# = 0 ] || command+=("$@")
  echo "$(date '+%F %T') job $SLURM_JOB_ID, start $((restarts + 1)), nodes $SLURM_JOB_NODELIST: ${launch[*]} ${command[*]}"
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

# Whether a rank was lost, with its node or its network, or was killed: the same job may go well elsewhere.
lost_a_rank() {
  [ "$cancelled" = 0 ] && { [ "$code" = $LOST ] || [ "$code" -gt 128 ]; }
}

# Puts this same job back in the queue when it was stopped by the warning or has lost a rank; ends the script in every case.
requeue_or_end() {
  if [ "$REQUEUE" != 1 ]; then exit "$code"; fi
  if ! stopped_by_warning && ! lost_a_rank; then exit "$code"; fi
  if ! stopped_by_warning && [ $SECONDS -lt "$YX_RETRY_AFTER" ]; then
    echo "error: a rank was lost after $SECONDS s, within YX_RETRY_AFTER=$YX_RETRY_AFTER: not tried again" >&2
  elif [ $restarts -ge "$YX_MAX_RESTARTS" ]; then
    echo "error: requeued $restarts times, YX_MAX_RESTARTS=$YX_MAX_RESTARTS: submit the job again if that is right" >&2
  else
    echo "requeued"
    scontrol requeue "$SLURM_JOB_ID" || true # Slurm may have done so first, when a node was lost
  fi
  exit "$code"
}

# For an array whose next element goes on: takes the rest of it out of the queue when there is nothing to go on with, and ends.
leave_chain() {
  if [ "$code" != $STOPPED ] && ! lost_a_rank; then
    echo "the rest of the chain is not needed"
    scancel --state=PENDING "$SLURM_ARRAY_JOB_ID"
  fi
  exit "$code"
}
