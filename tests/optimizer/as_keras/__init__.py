"""Keras's own installed tests, run with this package's class in place of Keras's.

`stand_ins` holds the classes that replace Keras's, `selection` lists the tests that are run and
those that cannot pass, `run` runs them in a process of their own, and `test_as_keras` checks the
results. To run one test by hand, with pytest's own output:

    KERAS_BACKEND=torch python -m tests.optimizer.as_keras.run -k test_ema
"""
