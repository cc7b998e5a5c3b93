"""Batches -> a trained model.

losses.py      weighted sums of cross entropy, Dice, focal and Lovasz
optim.py       learning-rate schedule, optimiser, averaged weights
augment.py     paired changes of image and mask, on the device
mesh.py        devices, shardings, host batch -> global array
step.py        every jit of training: create_state, train_step, eval_step
checkpoint.py  state on disk, verified before it is used again
tracking.py    where a run is recorded: MLflow, a spool of JSON lines
loop.py        the one training story: batch, step, log, evaluate, save
run.py         wires config -> pipeline -> loop
"""
