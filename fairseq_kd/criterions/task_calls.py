"""What fairseq tells the task and not the criterion: that a training begins, and which batches do not count.

- fairseq-train loads its data by `task.load_dataset`, after it has built the criterion. Commands that only read a
  checkpoint (fairseq-validate, fairseq-generate) give `task_cfg` there, the options of the training that is over.
- Where the batches of an epoch do not suffice for all ranks, one gets a dummy batch: the first one of the iterator that
  was made last, so one of a validation set after a validation inside the epoch. The trainer gives `ignore_grad` to
  `task.train_step`, which multiplies the loss by 0, and drops what was logged.

The task may be a stock one, so these two methods are replaced on the one object, each by one that calls it.
"""

import functools


class TaskCalls:
    """Listens to the calls of one task.

    is_dummy: whether the criterion is being called with a batch that does not count.
    """

    def __init__(self, task, before_training_data):
        """before_training_data(split): called each time before a training loads a subset."""
        self.is_dummy = False
        task.load_dataset = self._announced(task.load_dataset, before_training_data)
        task.train_step = self._marked(task.train_step)

    @staticmethod
    def _announced(load_dataset, before_training_data):
        @functools.wraps(load_dataset)
        def load(*args, **kwargs):
            if "task_cfg" not in kwargs:
                before_training_data(args[0] if args else kwargs["split"])
            return load_dataset(*args, **kwargs)

        return load

    def _marked(self, train_step):
        @functools.wraps(train_step)
        def step(sample, model, criterion, optimizer, update_num, ignore_grad=False, **kwargs):
            self.is_dummy = ignore_grad
            try:
                return train_step(sample, model, criterion, optimizer, update_num, ignore_grad, **kwargs)
            finally:
                self.is_dummy = False

        return step
