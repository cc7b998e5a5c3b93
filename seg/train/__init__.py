"""Batches -> a trained model.

run.py       wires config -> pipeline -> loop
workdirs.py  the folder of a run: held, compared, begun and ended
loop.py      the one training story: batch, step, log, evaluate, save, resume
validate.py  whole validation images, stitched and scored
step.py      every jit of training: the fresh state and the step
losses/      sums of cross entropies, Dice's kin and Lovasz, in phases
optim.py     learning-rate schedule, optimiser, moving average of weights
parts.py     rates of parts of the network, and frozen parts
averages.py  stochastic weight averaging, and the statistics it needs
start.py     the weights that a training starts from
augment.py   paired changes of image and mask, on the device
mesh.py      devices, shardings, host batch -> global array
meter.py     what is seen of a training while it runs
stop.py      stopping in good order on a signal
checkpoint/  the state on disk, verified before it is used again
tracking/    where a run is recorded: MLflow, a spool of JSON lines, nowhere
"""
