"""Keras's own installed tests, run with this package's class in the place of Keras's.

`stand_ins` says what takes whose place, `selection` which tests are run and which cannot hold,
`run` runs them in a process of their own, and `test_as_keras` judges what came out. By hand, for
one test and with pytest's own output:

    KERAS_BACKEND=torch python -m tests.optimizer.as_keras.run -k test_ema
"""
