"""What fairseq tells its task and not the criterion: the loading of data, dummy batches and the number of updates."""

import functools


class TaskCalls:
    """Observes two calls of one task: fairseq gives the task, and not the criterion, information that the latter needs.

    - fairseq-train loads its data by `task.load_dataset`, after it has built the criterion. Commands that only read a
      checkpoint (fairseq-validate, fairseq-generate) pass `task_cfg` to it, the options of the finished training.
    - If an epoch does not have enough batches for all ranks, a rank gets a dummy batch. This is the first batch of the
      iterator that was created last, so it is a validation batch after a validation inside the epoch. The trainer
      passes `ignore_grad` to `task.train_step`, which multiplies the loss by 0, and ignores the logged values.
    - The trainer passes the number of updates so far to `task.train_step`, and not to the criterion.

    The task may be one of fairseq's own, so both methods are replaced on this object by methods that call them.
    is_dummy: whether the criterion is being called with a dummy batch.
    update_num: the number of updates before the one for which the criterion is being called.
    """

    def __init__(self, task, before_training_data, around_update):
        """before_training_data(split): called before each load of a subset by a training.

        around_update(model): a context for the forward and backward pass of each batch.
        """
        self.is_dummy, self.update_num = False, 0
        task.load_dataset = self._announced(task.load_dataset, before_training_data)
        task.train_step = self._marked(task.train_step, around_update)

    @staticmethod
    def _announced(load_dataset, before_training_data):
        @functools.wraps(load_dataset)
        def load(*args, **kwargs):
            if "task_cfg" not in kwargs:
                before_training_data(args[0] if args else kwargs["split"])
            return load_dataset(*args, **kwargs)

        return load

    def _marked(self, train_step, around_update):
        @functools.wraps(train_step)
        def step(sample, model, criterion, optimizer, update_num, ignore_grad=False, **kwargs):
            self.is_dummy, self.update_num = ignore_grad, update_num
            try:
                with around_update(model):
                    return train_step(sample, model, criterion, optimizer, update_num, ignore_grad, **kwargs)
            finally:
                self.is_dummy = False

        return step
