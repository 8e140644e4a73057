"""Training: loss, one jitted step, the loop, checkpoints."""

# How a training ends that the same command would take further: it was told to stop and has saved,
# or another host was lost. (EX_TEMPFAIL of sysexits.h)
EXIT_AGAIN = 75
