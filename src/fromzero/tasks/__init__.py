"""One file a task, found by this folder. Each has:

example(workload, batch, device) -> (inputs, targets)    a batch of the right shapes, for the planner
loss_for(recipe) -> callable(outputs, targets) -> scalar tensor
"""
