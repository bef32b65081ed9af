"""Several processes that search for one evaluation: the driver has the queue and the run file, workers have devices."""
